-- Reads rows in the order of their members (tenant, then id).
--
-- ARGV: prefix, kind, index or '', the bounds in the order of reading, 'rev' or
-- '', how many at most, a prefix that ids must have where the bounds do not say
-- so, bytes at most.
--
-- The answer is the member to go on after ('' at the end), then member and
-- value of each.
local call = redis.call
local P, kind, index, from, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local limit, prefix, room = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local set = P .. 'rows:' .. kind
if index ~= '' then set = P .. 'index:' .. kind .. '\0' .. index:sub(2) end
local range = ARGV[6] == 'rev' and 'ZREVRANGEBYLEX' or 'ZRANGEBYLEX'
local members = call(range, set, from, to, 'LIMIT', 0, limit + 1)
local out = {''}
for i, member in ipairs(members) do
  if i > limit or room <= 0 then
    out[1] = members[i - 1]
    break
  end
  local wanted = true
  if prefix ~= '' then
    local id = member:find('\0', 1, true) + 1
    wanted = member:sub(id, id + #prefix - 1) == prefix
  end
  if wanted then
    local value = call('GET', P .. 'r:' .. kind .. '\0' .. member)
    out[#out + 1] = member
    out[#out + 1] = value
    room = room - #value
  end
end
return out
