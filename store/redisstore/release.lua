-- Gives claims back whose holder ended: at once, and without counting it as a
-- delivery, unless the message seems to be what ends its holders.
--
-- ARGV: prefix, then id and token of each. The answer is how many there were.
local call = redis.call
local P = ARGV[1]
local rung, bells, count = {}, {}, 0
for i = 2, #ARGV, 2 do
  local id, message = ARGV[i], P .. 'm:' .. ARGV[i]
  local m = call('HMGET', message, 'inbox', 'key', 'token', 'n', 'lost')
  if m[3] and m[3] == ARGV[i + 1] then
    local inbox, key, lost = m[1], m[2], tonumber(m[5] or '0')
    call('ZREM', P .. 'timed:' .. inbox, id)
    call('HDEL', message, 'token')
    if lost < 20 then
      call('HSET', message, 'n', m[4] - 1, 'lost', lost + 1)
      call('ZADD', P .. 'ready:' .. inbox, id, id)
    elseif tonumber(m[4]) >= 5 then
      call('ZREM', P .. 'due', id)
      call('ZADD', P .. 'parked', id, id)
      call('HSET', message, 'why', 'the processes that it was handed to ended, ' .. lost + 5 .. ' times')
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
end
if #bells > 0 then call('XADD', P .. 'feed', 'MAXLEN', '~', 1000, '*', unpack(bells)) end
return count
