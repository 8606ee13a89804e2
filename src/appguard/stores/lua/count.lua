-- Count one request under several limits, all or nothing, by the server's clock.
-- KEYS    one counter per limit
-- ARGV    per limit: amount, window in milliseconds, burst (0: a sliding window), cost (0: only ask)
-- reply   {0, now} admitted and counted, or {i, wait}: the i-th limit refuses for `wait` milliseconds, nothing is
--         counted; now is in microseconds
--
-- A sliding window is what `appguard.rate.SlidingWindow` keeps, packed: the time the newest run opened, then per run the
-- time of its last request and the number of its requests. A token bucket is the time it is full again. Times are in
-- milliseconds. A refused request writes nothing.
local RUNS_PER_WINDOW = 10
local TOLERANCE = 0.001
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function read_window(packed, counter)
  local at, last, number
  counter.opened, at = struct.unpack('>d', packed)
  while at <= #packed do
    last, number, at = struct.unpack('>dI4', packed, at)
    if last + counter.window > now then
      counter.runs[#counter.runs + 1] = {last, number}
      counter.total = counter.total + number
    end
  end
end

local function wait_of(counter, cost)
  if cost == 0 then cost = 1 end
  if counter.burst > 0 then
    if cost > counter.burst then return counter.window end
    local wait = math.max(counter.full_at - now, 0) - (counter.burst - cost) * counter.window / counter.amount
    return wait > TOLERANCE and wait or 0
  end
  local over = counter.total + cost - counter.amount
  if over <= 0 then return 0 end
  for _, run in ipairs(counter.runs) do
    over = over - run[2]
    if over <= 0 then return run[1] + counter.window - now end
  end
  return counter.window
end

local counters, refused, longest = {}, 0, 0
for i, key in ipairs(KEYS) do
  local counter = {
    amount = tonumber(ARGV[4 * i - 3]), window = tonumber(ARGV[4 * i - 2]), burst = tonumber(ARGV[4 * i - 1]),
    full_at = 0, opened = 0, runs = {}, total = 0,
  }
  local packed = redis.call('GET', key)
  if packed and counter.burst > 0 then
    counter.full_at = struct.unpack('>d', packed)
  elseif packed then
    read_window(packed, counter)
  end
  local wait = wait_of(counter, tonumber(ARGV[4 * i]))
  if wait > longest then refused, longest = i, wait end
  counters[i] = counter
end
if refused > 0 then return {refused, math.ceil(longest)} end

for i, key in ipairs(KEYS) do
  local counter, cost = counters[i], tonumber(ARGV[4 * i])
  local runs = counter.runs
  if cost == 0 then
    -- only asked
  elseif counter.burst > 0 then
    counter.full_at = math.max(counter.full_at, now) + cost * counter.window / counter.amount
    redis.call('SET', key, struct.pack('>d', counter.full_at), 'PX', math.ceil(counter.full_at - now))
  else
    if #runs > 0 and now - counter.opened < counter.window / RUNS_PER_WINDOW then
      local newest = runs[#runs]
      newest[1], newest[2] = math.max(now, newest[1]), newest[2] + cost
    else
      runs[#runs + 1] = {now, cost}
      counter.opened = now
    end
    local parts = {struct.pack('>d', counter.opened)}
    for j, run in ipairs(runs) do parts[j + 1] = struct.pack('>dI4', run[1], run[2]) end
    redis.call('SET', key, table.concat(parts), 'PX', math.ceil(counter.window))
  end
end
return {0, math.floor(now * 1000)}
