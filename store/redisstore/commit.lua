-- Does a group of batches, each in full or not at all, and answers for each.
--
-- ARGV: prefix, who asks, the number of the group, then of each batch:
--   answer ('', 'ack', 'retry', 'requeue'), and if there is one: id, token, delay, why
--   n, and n times: row, rev                                   (what must stand)
--   n, and n times: row, rev, kind, member, index, value       (put)
--   n, and n times: row, rev, kind, member                     (delete)
--   n, and n times: inbox, subject, key, body, due, after      (tell)
-- How many deletions are kept comes last.
--
-- The answer is one text, a word for each batch: "ok", "held" (the claim is not
-- held), "none" (nothing to requeue), or "3:17": the third of what must stand,
-- the puts and the deletes is at revision 17.
--
-- Redis undoes nothing: whatever can be against a batch is looked at before
-- anything of it is written. A server that is out of memory refuses the first
-- write of a script, and none after it.
local call = redis.call
local P, client, number, keep = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[#ARGV])
local done = P .. 'done:' .. client

-- A group that was done, and whose answer was lost, is answered again. Writing
-- that makes WAIT cover it. A group that comes after a later one was sent long
-- ago, and nobody waits for it.
local before = call('GET', done)
if before then
  local space = before:find(' ', 1, true)
  local last = tonumber(before:sub(1, space - 1))
  if last == number then
    call('EXPIRE', done, 86400)
    return before:sub(space + 1)
  elseif last > number then
    return redis.error_reply('LATE this group was given up')
  end
end

local seq = tonumber(call('GET', P .. 'seq') or '0')
local first = seq
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local rung, bells = {}, {} -- what happened, for those who wait

local function ring(bell)
  if not rung[bell] then
    rung[bell] = true
    bells[#bells + 1] = bell
    bells[#bells + 1] = ''
  end
end

-- A row is the text "REV LENGTH\nINDEX" and its data.
local function standing(row)
  local head = call('GETRANGE', row, 0, 127)
  if head == '' then return '0', '' end
  local rev, length, from = head:match('^(%d+) (%d+)\n()')
  if length == '0' then return rev, '' end
  local to = from + length - 1
  if to > 128 then head = call('GETRANGE', row, 0, to - 1) end
  return rev, head:sub(from, to)
end

-- An index is each value after its length: "4:live9:state=new".
local function values(index)
  local all, at = {}, 1
  while at <= #index do
    local colon = index:find(':', at, true)
    local n = tonumber(index:sub(at, colon - 1))
    all[#all + 1] = index:sub(colon + 1, colon + n)
    at = colon + n + 1
  end
  return all
end

local function reindex(kind, member, was, is)
  if was == is then return end
  local base, stays = P .. 'index:' .. kind .. '\0', {}
  for _, v in ipairs(values(is)) do stays[v] = true end
  for _, v in ipairs(values(was)) do
    if not stays[v] then call('ZREM', base .. v, member) end
  end
  for v in pairs(stays) do call('ZADD', base .. v, 0, member) end
end

-- The line of a message is free: the first that waited for that may go.
local function release(inbox, key, id)
  if key == '' then return end
  local held = P .. 'held:' .. inbox
  if call('HGET', held, key) ~= id then return end
  call('HDEL', held, key)
  local first = call('ZPOPMIN', P .. 'behind:' .. inbox .. '\0' .. key)
  if first[1] then
    call('ZADD', P .. 'ready:' .. inbox, first[1], first[1])
    ring('i' .. inbox)
  end
end

local function batch(p)
  local answer, id, token, delay, why = ARGV[p], nil, nil, nil, nil
  p = p + 1
  if answer ~= '' then
    id, token, delay, why = ARGV[p], ARGV[p + 1], tonumber(ARGV[p + 2]), ARGV[p + 3]
    p = p + 4
  end
  local checks, stand = p + 1, tonumber(ARGV[p])
  p = checks + 2 * stand
  local puts, nputs = p + 1, tonumber(ARGV[p])
  p = puts + 6 * nputs
  local deletes, ndeletes = p + 1, tonumber(ARGV[p])
  p = deletes + 4 * ndeletes
  local tells, ntells = p + 1, tonumber(ARGV[p])
  p = tells + 6 * ntells

  -- Look.
  local message, m
  if answer ~= '' then
    message = P .. 'm:' .. id
    m = call('HMGET', message, 'inbox', 'key', 'token', 'n')
    if answer == 'requeue' then
      if not call('ZSCORE', P .. 'parked', id) then return p, 'none' end
    elseif not m[3] or m[3] ~= token then
      return p, 'held'
    end
  end
  local n = 0
  for i = checks, checks + 2 * stand - 1, 2 do
    local rev = standing(ARGV[i])
    if rev ~= ARGV[i + 1] then return p, n .. ':' .. rev end
    n = n + 1
  end
  local was = {}
  for i = puts, puts + 6 * nputs - 1, 6 do
    local rev, index = standing(ARGV[i])
    if rev ~= ARGV[i + 1] then return p, n .. ':' .. rev end
    was[i] = index
    n = n + 1
  end
  for i = deletes, deletes + 4 * ndeletes - 1, 4 do
    local rev, index = standing(ARGV[i])
    if rev ~= ARGV[i + 1] then return p, n .. ':' .. rev end
    was[i] = index
    n = n + 1
  end

  -- Write. An acknowledgement makes room, and comes first: it is possible when
  -- there is none.
  if answer == 'ack' or answer == 'retry' then
    call('SREM', P .. 'claims:' .. token:sub(1, token:find('-', 1, true) - 1), id)
  end
  if answer == 'ack' then
    call('DEL', message)
    call('ZREM', P .. 'timed:' .. m[1], id)
    call('ZREM', P .. 'due', id)
    release(m[1], m[2], id)
  elseif answer == 'retry' then
    local inbox = m[1]
    call('ZREM', P .. 'timed:' .. inbox, id)
    call('HDEL', message, 'token')
    call('HSET', message, 'why', why)
    if tonumber(m[4]) >= 5 then
      call('ZREM', P .. 'due', id)
      call('ZADD', P .. 'parked', id, id)
    elseif delay > 0 then
      call('ZADD', P .. 'timed:' .. inbox, now + delay, id)
    else
      call('ZADD', P .. 'ready:' .. inbox, id, id)
    end
    ring('i' .. inbox)
    release(inbox, m[2], id)
  elseif answer == 'requeue' then
    call('ZREM', P .. 'parked', id)
    call('HSET', message, 'n', 0, 'lost', 0)
    call('ZADD', P .. 'due', call('HGET', message, 'due'), id)
    call('ZADD', P .. 'ready:' .. m[1], id, id)
    ring('i' .. m[1])
  end
  for i = puts, puts + 6 * nputs - 1, 6 do
    local kind, member, index = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
    seq = seq + 1
    call('SET', ARGV[i], ARGV[i + 5])
    call('ZADD', P .. 'changed:' .. kind, seq, member)
    if ARGV[i + 1] == '0' then
      call('ZADD', P .. 'rows:' .. kind, 0, member)
      call('ZREM', P .. 'gone', kind .. '\0' .. member)
      call('SADD', P .. 'kinds', kind)
    end
    reindex(kind, member, was[i], index)
    ring('k' .. kind)
  end
  for i = deletes, deletes + 4 * ndeletes - 1, 4 do
    local kind, member = ARGV[i + 2], ARGV[i + 3]
    seq = seq + 1
    call('DEL', ARGV[i])
    call('ZREM', P .. 'rows:' .. kind, member)
    reindex(kind, member, was[i], '')
    call('ZADD', P .. 'changed:' .. kind, seq, member)
    call('ZADD', P .. 'gone', seq, kind .. '\0' .. member)
    ring('k' .. kind)
  end
  for i = tells, tells + 6 * ntells - 1, 6 do
    seq = seq + 1
    local inbox, due = ARGV[i], math.max(tonumber(ARGV[i + 4]), now + tonumber(ARGV[i + 5]))
    local id = string.format('%d', seq)
    local set, ready = 'ready:', id
    if due > now then set, ready = 'timed:', due else due = now end
    call('HSET', P .. 'm:' .. id, 'inbox', inbox, 'subject', ARGV[i + 1], 'key', ARGV[i + 2], 'body', ARGV[i + 3], 'due', due, 'n', 0)
    call('ZADD', P .. set .. inbox, ready, id)
    call('ZADD', P .. 'due', due, id)
    ring('i' .. inbox)
  end
  if ndeletes > 0 then
    -- Old deletions are forgotten, a few of them at a time.
    local many = math.min(call('ZCARD', P .. 'gone') - keep, 100)
    if many > 0 then
      local old = call('ZRANGE', P .. 'gone', 0, many - 1, 'WITHSCORES')
      for i = 1, #old, 2 do
        local zero = old[i]:find('\0', 1, true)
        call('ZREM', P .. 'changed:' .. old[i]:sub(1, zero - 1), old[i]:sub(zero + 1))
      end
      call('ZREMRANGEBYRANK', P .. 'gone', 0, many - 1)
      call('SET', P .. 'trimmed', old[#old])
    end
  end
  return p, 'ok'
end

local said, p = {}, 4
while p < #ARGV do
  p, said[#said + 1] = batch(p)
end
local text = table.concat(said, ' ')
if seq ~= first then call('SET', P .. 'seq', string.format('%d', seq)) end
if #bells > 2000 then bells = {'*', ''} end -- all of them
if #bells > 0 then call('XADD', P .. 'feed', 'MAXLEN', '~', 1000, '*', unpack(bells)) end
call('SET', done, ARGV[3] .. ' ' .. text, 'EX', 86400)
return text
