-- Reads what was written after one number and deleted after another, in the
-- order of the numbers, as far as it goes at once.
--
-- ARGV: prefix, written after, deleted after (-1: from now on), how many at
-- most, bytes at most, then the kinds (none: every one).
--
-- The answer is the number of the last commit, the number up to which deletions
-- were forgotten, the number up to which this answer knows everything (that of
-- the last commit: everything), then number, kind, member and value of each;
-- the value of what is gone is ''.
local call = redis.call
local P, written, deleted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local limit, room = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = tonumber(call('GET', P .. 'seq') or '0')
local trimmed = tonumber(call('GET', P .. 'trimmed') or '0')
if deleted < 0 then deleted = now end
local kinds = {}
for i = 6, #ARGV do kinds[#kinds + 1] = ARGV[i] end
if #kinds == 0 then kinds = call('SMEMBERS', P .. 'kinds') end

-- The first of each kind; beyond the last of a kind that has more, nothing is
-- known.
local found, known, from = {}, now, string.format('(%d', written)
for _, kind in ipairs(kinds) do
  local part = call('ZRANGEBYSCORE', P .. 'changed:' .. kind, from, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #part, 2 do
    found[#found + 1] = {tonumber(part[i + 1]), kind, part[i]}
  end
  if #part == 2 * limit then known = math.min(known, tonumber(part[#part])) end
end
table.sort(found, function(a, b) return a[1] < b[1] end)

local out = {now, trimmed, known}
for i, f in ipairs(found) do
  if f[1] > known then break end
  if i > limit or room <= 0 then
    known = found[i - 1][1]
    break
  end
  local value = call('GET', P .. 'r:' .. f[2] .. '\0' .. f[3])
  if value or f[1] > deleted then
    for _, v in ipairs({f[1], f[2], f[3], value or ''}) do out[#out + 1] = v end
    room = room - #(value or '')
  end
end
out[3] = known
return out
