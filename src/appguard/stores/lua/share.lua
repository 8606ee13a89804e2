-- Tell what this host protects and what is on the safelist, and learn what the others have told.
-- KEYS    1 hosts: HASH id -> "until record", and `version`   2 safelist: HASH network -> "version until record"
-- ARGV    1 the version this host knows, "" for none   2 its id   3 for how many milliseconds its record counts
--         4 its record as JSON, "" to leave it as it is; then per entry of the safelist four: network, version, until in
--         milliseconds (0 for ever), record
-- reply   the version; and if that is another, the fields and values of hosts and those of the safelist
--
-- The version is new with every change, also after one that was lost, so whoever knows it knows all. Of two entries
-- about a network the one with the higher version stays. When a host tells its record, what is over goes: records of
-- hosts that are gone, entries that ended long ago, and of all that have ended those beyond the newest.
local ENDED_MOST = 2000
local REMEMBERED = 30 * 86400000 -- milliseconds
local time = redis.call('TIME')
local now = math.floor(time[1] * 1000 + time[2] / 1000)
local is_changed = false

local function put(key, field, value)
  redis.call('HSET', key, field, value)
  is_changed = true
end

local function drop(key, field)
  redis.call('HDEL', key, field)
  is_changed = true
end

local function sweep_hosts()
  local found = redis.call('HGETALL', KEYS[1])
  for i = 1, #found, 2 do
    local ends = tonumber(string.match(found[i + 1], '^(%d+) ') or '')
    if found[i] ~= 'version' and (not ends or ends <= now) then drop(KEYS[1], found[i]) end
  end
end

local function sweep_safelist()
  local found, ended = redis.call('HGETALL', KEYS[2]), {}
  for i = 1, #found, 2 do
    local version, ends = string.match(found[i + 1], '^(%d+) (%d+) ')
    ends = tonumber(ends)
    if not ends or (ends > 0 and ends + REMEMBERED <= now) then
      drop(KEYS[2], found[i])
    elseif ends > 0 and ends <= now then
      ended[#ended + 1] = {tonumber(version), found[i]}
    end
  end
  table.sort(ended, function(one, other) return one[1] > other[1] end)
  for i = ENDED_MOST + 1, #ended do drop(KEYS[2], ended[i][2]) end
end

if ARGV[4] ~= '' then
  local known = redis.call('HGET', KEYS[1], ARGV[2])
  local record = string.format('%.0f %s', now + ARGV[3], ARGV[4])
  if known and string.match(known, ' (.*)$') == ARGV[4] then
    redis.call('HSET', KEYS[1], ARGV[2], record)
  else
    put(KEYS[1], ARGV[2], record)
  end
  sweep_hosts()
  sweep_safelist()
end
for i = 5, #ARGV, 4 do
  local known = tonumber(string.match(redis.call('HGET', KEYS[2], ARGV[i]) or '', '^(%d+) ')) or 0
  if tonumber(ARGV[i + 1]) > known then
    put(KEYS[2], ARGV[i], table.concat({ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]}, ' '))
  end
end
local version = redis.call('HGET', KEYS[1], 'version')
if is_changed or not version then
  local number = tonumber(string.match(version or '', '^(%d+)-')) or 0
  version = string.format('%.0f-%.0f', number + 1, now)
  redis.call('HSET', KEYS[1], 'version', version)
end
if version == ARGV[1] then return {version} end
return {version, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
