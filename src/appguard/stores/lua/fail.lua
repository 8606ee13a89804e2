-- Count failures for one jail, told by all hosts of a fleet, and ban in the same call who has reached maxretry.
-- KEYS    1 facts and 2 changes, as merge.lua   3 what this daemon sent last   4... one counter for each key that failed
-- ARGV    1 stream length   2 the number of this batch, never used again   3 maxretry   4 findtime in milliseconds
--         5 "ban" or "dry" (count and tell, ban nobody)
--         6 the failures in MessagePack, each a list: which counter (from 1); time in milliseconds of Redis TIME; how
--         many, 0 to forget the counter; what is counted once only, "" if all is; the network to ban; whether all
--         networks of the counter are banned (it is a user's); the end in milliseconds, 0 for ever; whether the host
--         has counted enough alone; three texts that with the total between them are the details
-- reply   one text in MessagePack: a list of {which failure (from 1), 1 banned or 2 prolonged, network, record}
--
-- A batch sent again, because its answer was lost, counts nothing and is answered as before. A counter is a string of
-- entries in the order of time: time, how many, and a tag of what is counted once and the network, where either matters.
-- It is gone when its key is banned, and findtime after its last failure. What is older than a lift of the same network
-- does not count: nobody is banned again for what was forgiven. A time to come is a clock that was just set, and counts
-- as now: it would put all others out of the window; so does what was counted before the clock of Redis was set back. A
-- dry run spends nothing of what others may ban for, whose maxretry may be another, and each batch tells of a network
-- once. What a stranger has put where a counter should be counts nothing, and is written over.
local ENTRIES_MOST = 256
local FORMAT, ENTRY_BYTES = '>dI4I2c0', 14 -- without a tag
local VERSION_MOST = 4503599627370496
local REMEMBERED = 600000 -- milliseconds that a lost answer is asked for again
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local maxretry, findtime, is_dry = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'dry'

local function text_at(key)
  local found = redis.pcall('GET', key)
  return type(found) == 'string' and found or ''
end

local sent = text_at(KEYS[3])
local is_sound, last = pcall(struct.unpack, '>I2c0', sent)
if is_sound and last == ARGV[2] then return string.sub(sent, 3 + #last) end

local function known_of(record)
  local version, ends = string.match(record or '', '^(%d+) (-?%d+) ')
  version = tonumber(version)
  if not version or version >= VERSION_MOST then return 0, -1 end
  return version, tonumber(ends)
end

local function read(packed)
  local entries, at = {}, 1
  while at <= #packed do
    local entry = {}
    entry[1], entry[2], entry[3], at = struct.unpack(FORMAT, packed, at)
    entry[1] = math.min(entry[1], now)
    entries[#entries + 1] = entry
  end
  return entries
end

local function write(entries)
  local parts = {}
  for i, entry in ipairs(entries) do
    parts[i] = struct.pack(FORMAT, entry[1], entry[2], #entry[3], entry[3])
  end
  return table.concat(parts)
end

-- As most failures are: events are added up, this one is the newest. Gives nothing if it is not.
local function append(packed, at, count)
  local total, kept, next = count, 1, 1
  while next <= #packed do
    local when, number, _, following = struct.unpack(FORMAT, packed, next)
    if when > at then return nil end
    if when > at - findtime then total = total + number else kept = following end
    next = following
  end
  if kept > 1 then packed = string.sub(packed, kept) end
  return packed .. struct.pack(FORMAT, at, count, 0, ''), total
end

-- What counts: within findtime before the newest, and later than `since`.
local function within(entries, since)
  local newest = 0
  for _, entry in ipairs(entries) do newest = math.max(newest, entry[1]) end
  local found = {}
  for _, entry in ipairs(entries) do
    if entry[1] > newest - findtime and entry[1] > since then found[#found + 1] = entry end
  end
  table.sort(found, function(one, other) return one[1] < other[1] end)
  while #found > ENTRIES_MOST do table.remove(found, 1) end
  return found
end

local function total_of(entries)
  local total, seen = 0, {}
  for _, entry in ipairs(entries) do
    local once = string.match(entry[3], '^[^ ]+')
    if not once then
      total = total + entry[2]
    elseif not seen[once] then
      total, seen[once] = total + 1, true
    end
  end
  return total
end

-- As any failure may be: late, of a user, or of something that is counted once.
local function insert(packed, at, count, once, tag)
  local entries, known = read(packed), nil
  for _, entry in ipairs(entries) do
    if entry[3] == tag and (once ~= '' or entry[1] == at) then known = entry end
  end
  if not known then
    entries[#entries + 1] = {at, count, tag}
  elseif once ~= '' then
    known[1] = math.max(known[1], at)
  else
    known[2] = known[2] + count
  end
  entries = within(entries, 0)
  return write(entries), total_of(entries)
end

local told = {}

local function tell(network)
  if told[network] then return 0 end
  told[network] = true
  return 1, ''
end

-- The newest, which are enough for any host: no maxretry is more than so many.
local function spared(packed)
  if #packed <= 2 * ENTRIES_MOST * ENTRY_BYTES then return packed end
  return write(within(read(packed), 0))
end

local function ban(network, ends, is_enough_here, details)
  if is_dry then return tell(network) end
  local version, old = known_of(redis.call('HGET', KEYS[1], network))
  local is_in_force = version > 0 and (old == 0 or old > now)
  if is_in_force and (is_enough_here or old == 0 or (ends ~= 0 and ends <= old)) then return 0 end
  if ends > 0 and ends <= now then return 0 end
  local record = string.format('%.0f %.0f 1 %s', math.max(math.floor(now * 1000), version + 1), ends, details)
  redis.call('HSETNX', KEYS[1], 'epoch', string.format('%.0f', now * 1000))
  redis.call('HSET', KEYS[1], network, record)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[1], '*', 'network', network, 'fact', record)
  return is_in_force and 2 or 1, record
end

local function add(packed, at, count, once, is_user, network)
  if once == '' and not is_user then
    local longer, total = append(packed, at, count)
    if longer then return longer, total end
  end
  local tag = (once ~= '' or is_user) and once .. ' ' .. (is_user and network or '') or ''
  return insert(packed, at, count, once, tag)
end

local counters, decided = {}, {}

local function networks_of(packed, network, is_user)
  local networks = {[network] = true}
  for _, entry in ipairs(is_user and read(packed) or {}) do
    networks[string.match(entry[3], ' (.*)$') or network] = true
  end
  return networks
end

local function fail(number, failure)
  local index, at, count, once, network, is_user, ends, is_enough_here, head, middle, tail = unpack(failure)
  if count == 0 then
    counters[index] = ''
    return
  end
  at = math.min(at, now)
  local before = counters[index] or text_at(KEYS[3 + index])
  local is_counter, packed, total = pcall(add, before, at, count, once, is_user, network)
  if not is_counter then packed, total = add('', at, count, once, is_user, network) end
  counters[index] = packed
  if total < maxretry and not is_enough_here then return end
  local version, old = known_of(redis.call('HGET', KEYS[1], network))
  if old == -1 and version > 0 and struct.unpack('>d', packed) <= version / 1000 then
    local entries = within(read(packed), version / 1000)
    counters[index], total = write(entries), total_of(entries)
    if total < maxretry then return end
  end
  local networks = networks_of(packed, network, is_user)
  counters[index] = is_dry and spared(packed) or ''
  local said = string.format('%d', math.max(total, is_enough_here and maxretry or 0))
  local details = table.concat({head, middle, tail}, said)
  for each in pairs(networks) do
    local how, record = ban(each, ends, is_enough_here and total < maxretry, details)
    if how > 0 then decided[#decided + 1] = {number, how, each, record} end
  end
end

for number, failure in ipairs(cmsgpack.unpack(ARGV[6])) do fail(number, failure) end
local kept = math.ceil(math.max(findtime, 60000))
for index, packed in pairs(counters) do
  redis.call('SET', KEYS[3 + index], packed, 'PX', packed == '' and 1 or kept) -- gone, without another command
end
local answer = cmsgpack.pack(decided)
redis.call('SET', KEYS[3], struct.pack('>I2c0', #ARGV[2], ARGV[2]) .. answer, 'PX', REMEMBERED)
return answer
