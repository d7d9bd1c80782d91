-- Counts. ARGV: prefix.
-- The answer is records, waiting, parked, microseconds that the oldest waits,
-- the number of the last commit.
local call = redis.call
local P = ARGV[1]
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local records = 0
for _, kind in ipairs(call('SMEMBERS', P .. 'kinds')) do
  records = records + call('ZCARD', P .. 'rows:' .. kind)
end
local oldest = tonumber(call('ZRANGE', P .. 'due', 0, 0, 'WITHSCORES')[2] or now)
return {records, call('ZCARD', P .. 'due'), call('ZCARD', P .. 'parked'), math.max(now - oldest, 0), tonumber(call('GET', P .. 'seq') or '0')}
