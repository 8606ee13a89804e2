-- Forget bans that have ended and lifts older than 30 days, in one slice of all facts.
-- KEYS    1 facts, as merge.lua
-- ARGV    1 about how many facts a slice has
-- reply   how many were forgotten; nothing is done within a second of the last slice, whoever asked for that
--
-- Where the next slice begins and when the last was made stand in the field `sweep`. Needs no entry in the stream:
-- every replica knows the end of each ban itself. Keeping no second index of the ends makes a ban half as big, and
-- leaves nothing that could be lost alone.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local cursor, last = string.match(redis.call('HGET', KEYS[1], 'sweep') or '', '^(%d+) (%d+)$')
last = tonumber(last) or 0
if now - last < 1000 and last <= now then return 0 end
if not redis.call('HGET', KEYS[1], 'epoch') then return 0 end

local slice = redis.call('HSCAN', KEYS[1], cursor or '0', 'COUNT', ARGV[1])
local forgotten = 0
for i = 1, #slice[2], 2 do
  local version, ends = string.match(slice[2][i + 1], '^(%d+) (-?%d+) ')
  ends = tonumber(ends)
  local is_over = ends and ((ends > 0 and ends <= now) or (ends == -1 and version / 1000 < now - 30 * 86400 * 1000))
  if is_over then
    redis.call('HDEL', KEYS[1], slice[2][i])
    forgotten = forgotten + 1
  end
end
redis.call('HSET', KEYS[1], 'sweep', string.format('%s %.0f', slice[1], now))
return forgotten
