-- Count one request under several limits, all or nothing, by the server's clock.
-- KEYS    one counter per limit
-- ARGV    per limit: amount, window in milliseconds, burst (0: a sliding window), cost (0: only ask)
-- reply   {0, now, then per limit what is left and the milliseconds until there is more}: admitted and counted; or
--         {i, wait}: the i-th limit refuses for `wait` milliseconds, nothing is counted; now is in microseconds
--
-- A sliding window is what `appguard.rate.SlidingWindow` keeps, packed: the time the newest run opened, then per run the
-- time of its last request and the number of its requests, the oldest first. A token bucket is the time it is full again.
-- Times are in milliseconds. A refused request writes nothing.
local RUNS_PER_WINDOW = 10
local TOLERANCE = 0.001
local HEAD, RUN = 8, 12 -- bytes
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

-- Give how many are counted, where the first run that has not left begins, where the first of those that holds a
-- request, and when that was.
local function read_window(packed, window)
  local total, live, oldest, oldest_last, at = 0, #packed + 1, 0, 0, HEAD + 1
  while at <= #packed do
    local last, number = struct.unpack('>dI4', packed, at)
    if last + window > now then
      total = total + number
      if at < live then live = at end
      if oldest == 0 and number > 0 then oldest, oldest_last = at, last end
    end
    at = at + RUN
  end
  return total, live, oldest, oldest_last
end

local function wait_in_window(packed, window, over)
  for at = HEAD + 1, #packed, RUN do
    local last, number = struct.unpack('>dI4', packed, at)
    if last + window > now then
      over = over - number
      if over <= 0 then return last + window - now end
    end
  end
  return window
end

-- Give the window with a request more, and whether it has joined the newest run.
local function add_to_window(packed, window, live, cost)
  local newest = #packed - RUN + 1
  if live <= newest and now - struct.unpack('>d', packed) < window / RUNS_PER_WINDOW then
    local last, number = struct.unpack('>dI4', packed, newest)
    local joined = struct.pack('>dI4', math.max(now, last), number + cost)
    return packed:sub(1, HEAD) .. packed:sub(live, newest - 1) .. joined, true
  end
  return struct.pack('>d', now) .. packed:sub(live) .. struct.pack('>dI4', now, cost), false
end

local function tokens_left(full_in, burst, interval)
  if full_in <= TOLERANCE then return burst, 0 end
  local left = math.max(0, math.floor(burst - (full_in - TOLERANCE) / interval))
  return left, math.ceil(full_in - (burst - left - 1) * interval)
end

local reply, written, refused, longest = {0, math.floor(now * 1000)}, {}, 0, 0
for i, key in ipairs(KEYS) do
  local amount, window = tonumber(ARGV[4 * i - 3]), tonumber(ARGV[4 * i - 2])
  local burst, cost = tonumber(ARGV[4 * i - 1]), tonumber(ARGV[4 * i])
  local packed, asked, wait, left, reset = redis.call('GET', key) or '', math.max(cost, 1), 0, 0, 0
  if burst > 0 then
    local interval, full_in = window / amount, packed ~= '' and math.max(struct.unpack('>d', packed) - now, 0) or 0
    wait = full_in - (burst - asked) * interval
    if asked > burst then wait = window elseif wait <= TOLERANCE then wait = 0 end
    full_in = full_in + cost * interval
    if cost > 0 then written[i] = {struct.pack('>d', now + full_in), math.ceil(full_in)} end
    left, reset = tokens_left(full_in, burst, interval)
  else
    local total, live, oldest, oldest_last = read_window(packed, window)
    if total + asked > amount then wait = wait_in_window(packed, window, total + asked - amount) end
    if cost > 0 and wait == 0 then
      local added, has_joined = add_to_window(packed, window, live, cost)
      written[i] = {added, window}
      if oldest == 0 or (has_joined and oldest == #packed - RUN + 1) then oldest, oldest_last = 1, now end
    end
    left = amount - total - cost
    if oldest > 0 then reset = math.ceil(oldest_last + window - now) end
  end
  if wait > longest then refused, longest = i, wait end
  reply[2 * i + 1], reply[2 * i + 2] = left, reset
end
if refused > 0 then return {refused, math.ceil(longest)} end
for i, what in pairs(written) do redis.call('SET', KEYS[i], what[1], 'PX', what[2]) end
return reply
