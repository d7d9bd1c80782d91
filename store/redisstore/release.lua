-- Gives back what a client holds that has ended: at once, and without counting
-- it as a delivery, unless the message seems to be what ends its holders.
--
-- ARGV: prefix, the client, and the count of its heartbeats if it is only
-- thought to have ended: one more beat, and it has not.
-- The answer is how many messages there were, or -1.
local call = redis.call
local P, client = ARGV[1], ARGV[2]
if ARGV[3] and call('HGET', P .. 'alive', client) ~= ARGV[3] then return -1 end
call('HDEL', P .. 'alive', client)
local claims, rung, bells, count = P .. 'claims:' .. client, {}, {}, 0
for _, id in ipairs(call('SMEMBERS', claims)) do
  local message = P .. 'm:' .. id
  local m = call('HMGET', message, 'inbox', 'key', 'n', 'lost')
  local inbox, key, n, lost = m[1], m[2], tonumber(m[3]), tonumber(m[4] or '0')
  call('ZREM', P .. 'timed:' .. inbox, id)
  call('HDEL', message, 'token')
  if lost < 20 then
    n = n - 1
    call('HSET', message, 'n', n, 'lost', lost + 1)
  end
  if n >= 5 then
    call('ZREM', P .. 'due', id)
    call('ZADD', P .. 'parked', id, id)
    call('HSET', message, 'why', 'the processes that it was handed to ended, ' .. lost + n .. ' times')
  else
    call('ZADD', P .. 'ready:' .. inbox, id, id)
  end
  if key ~= '' and call('HGET', P .. 'held:' .. inbox, key) == id then
    call('HDEL', P .. 'held:' .. inbox, key)
    local first = call('ZPOPMIN', P .. 'behind:' .. inbox .. '\0' .. key)
    if first[1] then call('ZADD', P .. 'ready:' .. inbox, first[1], first[1]) end
  end
  if not rung[inbox] then
    rung[inbox] = true
    bells[#bells + 1] = 'i' .. inbox
    bells[#bells + 1] = ''
  end
  count = count + 1
end
call('DEL', claims)
if #bells > 0 then call('XADD', P .. 'feed', 'MAXLEN', '~', 1000, '*', unpack(bells)) end
return count
