-- Count one request under several limits, all or nothing, by the server's clock.
-- KEYS    one counter per limit, all of one client (one hash tag)
-- ARGV    per limit: amount, window in milliseconds
-- reply   {0} admitted and counted, or {i, wait}: the i-th limit refuses for `wait` milliseconds, nothing is counted
--
-- A counter is what `appguard.limit.SlidingWindow` keeps, packed: the time the newest run opened, then per run the time
-- of its last request and the number of its requests. A refused request writes nothing.
local RUNS_PER_WINDOW = 10
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local counters, refused, longest = {}, 0, 0
for i, key in ipairs(KEYS) do
  local amount, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local packed = redis.call('GET', key)
  local counter = {opened = 0, runs = {}, total = 0, window = window}
  if packed then
    local at
    counter.opened, at = struct.unpack('>d', packed)
    while at <= #packed do
      local last, number
      last, number, at = struct.unpack('>dI4', packed, at)
      if last + window > now then
        counter.runs[#counter.runs + 1] = {last, number}
        counter.total = counter.total + number
      end
    end
  end
  if counter.total >= amount then
    local wait = counter.runs[1][1] + window - now
    if wait > longest then refused, longest = i, wait end
  end
  counters[i] = counter
end
if refused > 0 then return {refused, math.ceil(longest)} end

for i, key in ipairs(KEYS) do
  local counter = counters[i]
  local runs = counter.runs
  if #runs > 0 and now - counter.opened < counter.window / RUNS_PER_WINDOW then
    local newest = runs[#runs]
    newest[1], newest[2] = math.max(now, newest[1]), newest[2] + 1
  else
    runs[#runs + 1] = {now, 1}
    counter.opened = now
  end
  local parts = {struct.pack('>d', counter.opened)}
  for j, run in ipairs(runs) do parts[j + 1] = struct.pack('>dI4', run[1], run[2]) end
  redis.call('SET', key, table.concat(parts), 'PX', math.ceil(counter.window))
end
return {0}
