-- Merge one fact about a network into the ban set: of two facts the one with the higher version wins.
-- KEYS    1 bans in force: ZSET network -> end (milliseconds, inf for ever)   2 facts: HASH network -> record
--         3 lifted: ZSET network -> when   4 changes: STREAM of facts
-- ARGV    1 network   2 version (microseconds)   3 end in milliseconds, 0 for ever, -1 lifted
--         4 1 if the fact is new (it then always gets a version above what is known), 0 if it is told again
--         5 1 if a jail decided it (it then only ever extends a ban)   6 the record's details, JSON   7 stream length
-- reply   the version as kept, 0 if the fact changed nothing
--
-- A record is "version end automatic details".
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local network, version, ends = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local is_new, is_automatic = ARGV[4] == '1', ARGV[5] == '1'

local record = redis.call('HGET', KEYS[2], network)
if record then
  local known, old = string.match(record, '^(%d+) (-?%d+) ')
  known, old = tonumber(known), tonumber(old)
  if not is_new and version <= known then return 0 end
  if ends ~= -1 and is_automatic and (old == 0 or old > now) then
    if old == 0 or (ends ~= 0 and ends <= old) then return 0 end
  end
  if version <= known then version = known + 1 end
end
if ends > 0 and ends <= now then return 0 end

version = string.format('%.0f', version)
local fact = version .. ' ' .. string.format('%.0f', ends) .. ' ' .. ARGV[5] .. ' ' .. ARGV[6]
redis.call('HSET', KEYS[2], network, fact)
if ends == -1 then
  redis.call('ZREM', KEYS[1], network)
  redis.call('ZADD', KEYS[3], now, network)
else
  redis.call('ZADD', KEYS[1], ends == 0 and 'inf' or ends, network)
  redis.call('ZREM', KEYS[3], network)
end
redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[7], '*', 'network', network, 'fact', fact)
return version
