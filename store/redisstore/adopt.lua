-- Notes which server is the primary. When it is one that was a replica before,
-- what was not confirmed by it is not there any more, and watchers may have seen
-- it: the numbers jump, and every watcher begins again.
--
-- ARGV: prefix, the server's run id, "promoted" if it was a replica.
local call = redis.call
local P = ARGV[1]
local was = call('GET', P .. 'primary')
if was == ARGV[2] then return 0 end
local jumps = was and ARGV[3] == 'promoted'
if jumps then
  local seq = string.format('%d', tonumber(call('GET', P .. 'seq') or '0') + 1048576)
  call('MSET', P .. 'seq', seq, P .. 'trimmed', seq)
end
call('SET', P .. 'primary', ARGV[2])
call('XADD', P .. 'feed', 'MAXLEN', '~', 1000, '*', '*', '')
return jumps and 1 or 0
