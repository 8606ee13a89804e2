-- Count one request under several limits, all or nothing, by the server's clock.
-- KEYS    one counter per limit
-- ARGV    1 per limit five doubles: amount, window in milliseconds, burst (0: a sliding window), cost (0: only ask), and
--         whether clients are told of it (1, or 0)
-- reply   whole numbers and doubles, packed. Admitted and counted: 0, the time in microseconds (a double), then of those
--         limits clients are told of the one with least left: its place (from 0; -1: there is none), what is left, and
--         the seconds until there is more (a double). Refused, nothing is counted: which limit refuses (from 1) and for
--         how many seconds (a double)
--
-- A sliding window is what `appguard.rate.SlidingWindow` keeps, packed. Its head: when the newest run opened, the time of
-- the oldest run that holds a request (0: none does), how many are counted in all, and the newest run; then the older
-- runs, the oldest first. A run is the time of its last request and the number of its requests. While the newest run is
-- open and the oldest has not left, the head is all that is read or changed. A token bucket is the time it is full again.
-- Times are in milliseconds. What has another form than it should is begun anew, and so is what was counted by a clock
-- that was set back since: it would be full until that time comes again. A refused request writes nothing.
--
-- Most requests find all their windows open, and room in them. They are counted first, before what the others need is so
-- much as defined: that would take as long again.
local RUNS_PER_WINDOW = 10
local TOLERANCE = 0.001
local SET_LEAST = 1000 -- by which a clock that was set is another
local HEAD, HEAD_BYTES = '>ddddI4', 36
local RUN, RUN_BYTES = '>dI4', 12 -- a packed window is a multiple of it, a bucket is not
local call, pack, read, max, ceil = redis.call, struct.pack, struct.unpack, math.max, math.ceil
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local found, at = call('MGET', unpack(KEYS)), 1

local changed, least, told, resets = {}, nil, -1, 0
for i = 1, #KEYS do
  local packed, amount, window, burst, cost, is_told = found[i], nil, nil, nil, nil, nil
  amount, window, burst, cost, is_told, at = read('>ddddd', ARGV[1], at)
  local is_window = packed and burst == 0 and cost > 0 and #packed >= HEAD_BYTES and #packed % RUN_BYTES == 0
  local opened, oldest, total, last, number = 0, 0, 0, 0, 0
  if is_window then opened, oldest, total, last, number = read(HEAD, packed) end
  local is_open = is_window and now - opened < window / RUNS_PER_WINDOW and last <= now
  if not is_open or now >= oldest + window or total + cost > amount then
    changed = nil
    break
  end
  if oldest == last or oldest == 0 then oldest = now end
  changed[i] = pack('>dddI4', oldest, total + cost, now, number + cost)
  local left = amount - total - cost
  if is_told == 1 and (told < 0 or left < least) then least, told, resets = left, i - 1, oldest + window - now end
end
if changed then
  for i = 1, #KEYS do call('SETRANGE', KEYS[i], '8', changed[i]) end -- all of the head but when its run opened
  return pack('>i8di8i8d', 0, now * 1000, told, least or 0, ceil(resets) / 1000)
end

-- Drop the runs that have left; give those older than the newest, how many all hold, the time of the oldest that holds
-- any, and what the newest holds.
local function tidy(older, window, last, number)
  local live, total, oldest = #older + 1, 0, 0
  for at = #older - RUN_BYTES + 1, 1, -RUN_BYTES do
    local its_last, its_number = read(RUN, older, at)
    if its_last + window > now then
      live, total = at, total + its_number
      if its_number > 0 then oldest = its_last end
    end
  end
  if last + window <= now then number = 0 end
  if oldest == 0 and number > 0 then oldest = last end
  return older:sub(live), total + number, oldest, number
end

local function wait_in_window(runs, window, over)
  for at = 1, #runs, RUN_BYTES do
    local last, number = read(RUN, runs, at)
    if last + window > now then
      over = over - number
      if over <= 0 then return last + window - now end
    end
  end
  return window
end

-- Both ways to count give the milliseconds to wait or 0, what is left, the milliseconds until there is more, what is to
-- be kept if anything, and for how long if that is not known. A window is kept as long as its newest run could be needed
-- if requests joined it to its end, so that only opening one says how long.
local function count_in_window(packed, amount, window, cost)
  local opened, oldest, total, last, number, older = 0, 0, 0, 0, 0, ''
  if packed and #packed >= HEAD_BYTES and #packed % RUN_BYTES == 0 then
    opened, oldest, total, last, number = read(HEAD, packed)
    older = packed:sub(HEAD_BYTES + 1)
    if last > now + SET_LEAST then opened, oldest, total, last, number, older = 0, 0, 0, 0, 0, '' end
  end
  local is_open, keep = now - opened < window / RUNS_PER_WINDOW, nil
  if not is_open or now >= oldest + window then older, total, oldest, number = tidy(older, window, last, number) end
  local over = total + max(cost, 1) - amount
  if over > 0 then return wait_in_window(older .. pack(RUN, last, number), window, over) end
  if cost == 0 then return 0, amount - total, oldest > 0 and oldest + window - now or 0 end
  if is_open then
    local before = last
    last, number = max(now, last), number + cost
    if oldest == before or oldest == 0 then oldest = last end
  else
    if number > 0 then older = older .. pack(RUN, last, number) end
    if oldest == 0 then oldest = now end
    opened, last, number, keep = now, now, cost, window + window / RUNS_PER_WINDOW
  end
  total = total + cost
  return 0, amount - total, oldest + window - now, pack(HEAD, opened, oldest, total, last, number) .. older, keep
end

local function tokens_left(full_in, burst, interval)
  if full_in <= TOLERANCE then return burst, 0 end
  local left = max(0, math.floor(burst - (full_in - TOLERANCE) / interval))
  return left, full_in - (burst - left - 1) * interval
end

local function count_in_bucket(packed, amount, window, burst, cost)
  if cost > burst then return window end
  local interval, full_in = window / amount, packed and #packed == 8 and max(read('>d', packed) - now, 0) or 0
  if full_in > burst * interval + SET_LEAST then full_in = 0 end
  local wait = full_in - (burst - max(cost, 1)) * interval
  if wait > TOLERANCE then return wait end
  full_in = full_in + cost * interval
  local left, reset = tokens_left(full_in, burst, interval)
  return 0, left, reset, cost > 0 and pack('>d', now + full_in), full_in
end

local kept, keeps, refused, longest = {}, {}, 0, 0
at, least, told, resets = 1, nil, -1, 0
for i = 1, #KEYS do
  local packed, amount, window, burst, cost, is_told = found[i], nil, nil, nil, nil, nil
  amount, window, burst, cost, is_told, at = read('>ddddd', ARGV[1], at)
  local wait, left, reset
  if burst > 0 then
    wait, left, reset, kept[i], keeps[i] = count_in_bucket(packed, amount, window, burst, cost)
  else
    wait, left, reset, kept[i], keeps[i] = count_in_window(packed, amount, window, cost)
  end
  if wait > longest then refused, longest = i, wait end
  if refused == 0 and is_told == 1 and (told < 0 or left < least) then least, told, resets = left, i - 1, reset end
end
if refused > 0 then return pack('>i8d', refused, ceil(longest) / 1000) end
for i = 1, #KEYS do
  if kept[i] and keeps[i] then
    call('SET', KEYS[i], kept[i], 'PX', string.format('%d', ceil(keeps[i]))) -- a number Redis writes as text, slowly
  elseif kept[i] then
    call('SET', KEYS[i], kept[i], 'KEEPTTL')
  end
end
return pack('>i8di8i8d', 0, now * 1000, told, least or 0, ceil(resets) / 1000)
