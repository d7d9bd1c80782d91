-- Claims the next message of an inbox.
--
-- ARGV: prefix, inbox, lease in microseconds, the client and its new token,
-- turn, and "again" if the answer may have been lost. A token begins with its
-- client and a dash.
--
-- A message that may be handed out is in ready: by its id, or in timed: by the
-- time from which it may be: when it is due, or when its lease is over. It is
-- put behind: its line while another of its line is held.
--
-- The answer is {parked, id, delivery, subject, key, body, due, why}, or
-- {parked, microseconds until the next may come}, or {parked} if none is known.
-- parked is {id, subject, key, why, ...} of what was given up on the way.
local call = redis.call
local P, inbox, lease, client, token, turn = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local ready, timed, held = P .. 'ready:' .. inbox, P .. 'timed:' .. inbox, P .. 'held:' .. inbox
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local parked = {}

local function handed(id)
  local m = call('HMGET', P .. 'm:' .. id, 'n', 'subject', 'key', 'body', 'due', 'why')
  return {parked, tonumber(id), tonumber(m[1]), m[2], m[3], m[4], m[5], m[6] or ''}
end

if ARGV[7] == 'again' then
  for _, id in ipairs(call('SMEMBERS', P .. 'claims:' .. client)) do
    if call('HGET', P .. 'm:' .. id, 'token') == token then return handed(id) end
  end
end

-- The one who held it does not any more.
local function forget(id, token)
  call('SREM', P .. 'claims:' .. token:sub(1, token:find('-', 1, true) - 1), id)
end

local function release(key)
  if key == '' then return end
  call('HDEL', held, key)
  local first = call('ZPOPMIN', P .. 'behind:' .. inbox .. '\0' .. key)
  if first[1] then call('ZADD', ready, first[1], first[1]) end
end

-- first returns the message to hand out from a set, if there is one, and its
-- line. What may not go now leaves the set, so that it is looked at once.
local function first(set, upto)
  while true do
    local id
    if upto then
      id = call('ZRANGEBYSCORE', set, '-inf', upto, 'LIMIT', 0, 1)[1]
    else
      id = call('ZRANGE', set, 0, 0)[1]
    end
    if not id then return nil end
    local m = call('HMGET', P .. 'm:' .. id, 'key', 'n', 'token', 'why', 'subject')
    local key, n = m[1], tonumber(m[2])
    local holder = key ~= '' and call('HGET', held, key)
    if holder and holder ~= id then
      call('ZREM', set, id)
      call('ZADD', P .. 'behind:' .. inbox .. '\0' .. key, id, id)
    elseif m[3] and n >= 5 then
      local why = 'it was handed out ' .. n .. ' times and never acknowledged in time'
      if m[4] and m[4] ~= '' then why = why .. '; the last failure was: ' .. m[4] end
      call('ZREM', set, id)
      call('ZREM', P .. 'due', id)
      call('HDEL', P .. 'm:' .. id, 'token')
      call('HSET', P .. 'm:' .. id, 'why', why)
      forget(id, m[3])
      call('ZADD', P .. 'parked', id, id)
      release(key)
      for _, v in ipairs({id, m[5], key, why}) do parked[#parked + 1] = v end
    else
      if m[3] then forget(id, m[3]) end
      return id, key
    end
  end
end

-- What is ready at once goes first, and every fourth time what had to wait, so
-- that a flood cannot starve it.
local upto = string.format('%d', now)
local id, key
if turn == '3' then
  id, key = first(timed, upto)
  if not id then id, key = first(ready) end
else
  id, key = first(ready)
  if not id then id, key = first(timed, upto) end
  if not id then id, key = first(ready) end -- what a parked one let go
end
if id then
  -- What takes no room comes first, so that messages are handled also when there
  -- is none.
  call('ZREM', ready, id)
  call('HINCRBY', P .. 'm:' .. id, 'n', 1)
  call('HSET', P .. 'm:' .. id, 'token', token)
  call('SADD', P .. 'claims:' .. client, id)
  call('ZADD', timed, now + lease, id)
  if key ~= '' then call('HSET', held, key, id) end
  return handed(id)
end
local later = call('ZRANGE', timed, 0, 0, 'WITHSCORES')
if later[2] then return {parked, math.max(tonumber(later[2]) - now, 0)} end
return {parked}
