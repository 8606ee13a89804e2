-- Forget bans that have ended and lifted bans older than 30 days, some at a time.
-- KEYS    as merge.lua: 1 bans in force   2 facts   3 lifted
-- ARGV    1 how many of each at most
-- reply   how many were forgotten
--
-- Needs no entry in the stream: every replica knows the end of each ban itself.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local forgotten = 0
for _, place in ipairs({{KEYS[1], now}, {KEYS[3], now - 30 * 86400 * 1000}}) do
  for _, network in ipairs(redis.call('ZRANGEBYSCORE', place[1], '-inf', place[2], 'LIMIT', 0, ARGV[1])) do
    redis.call('ZREM', place[1], network)
    redis.call('HDEL', KEYS[2], network)
    forgotten = forgotten + 1
  end
end
return forgotten
