-- Merge facts into the ban set: of two facts about a network the one with the higher version wins.
-- KEYS    1 facts: HASH network -> record, and `epoch`   2 changes: STREAM of facts
-- ARGV    1 stream length, then per fact six: network, version (microseconds), end in milliseconds (0 for ever, -1
--         lifted), how ("new": decided now, gets a version above what is known; "again": decided before, perhaps told
--         before; "history": what was true before this server lost it), 1 if a jail decided it (unless it is history
--         it then only ever extends a ban), details as JSON
-- reply   per fact two: 1 if it changed anything, and the record as kept, "" for none
--
-- A record is "version end automatic details". The epoch says which life of this ban set it is: it is lost with the
-- facts, so whoever has read it knows when it was read from facts that are no more.
local VERSION_MOST = 4503599627370496
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function known_of(record)
  local version, ends = string.match(record or '', '^(%d+) (-?%d+) ')
  version = tonumber(version)
  if not version or version >= VERSION_MOST then return 0, -1 end
  return version, tonumber(ends)
end

local function merge(network, version, ends, how, automatic, details)
  local record = redis.call('HGET', KEYS[1], network)
  local known, old = known_of(record)
  local is_in_force = known > 0 and (old == 0 or old > now)
  if how ~= 'new' and version <= known then return 0, record end
  if ends > 0 and ends <= now then return 0, record or '' end
  if how ~= 'history' and ends ~= -1 and automatic == '1' and is_in_force then
    if old == 0 or (ends ~= 0 and ends <= old) then return 0, record end
  end
  if version <= known then version = known + 1 end
  local fact = string.format('%.0f %.0f %s %s', version, ends, automatic, details)
  redis.call('HSET', KEYS[1], network, fact)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'network', network, 'fact', fact)
  return 1, fact
end

redis.call('HSETNX', KEYS[1], 'epoch', string.format('%.0f', now * 1000))
local reply = {}
for i = 2, #ARGV, 6 do
  local changed, kept = merge(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
  reply[#reply + 1] = changed
  reply[#reply + 1] = kept
end
return reply
