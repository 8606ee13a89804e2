-- Take one reserved request out of its counters again.
-- KEYS    one counter per limit
-- ARGV    1 the time it was counted, in microseconds
--         2 per limit four doubles, the first of what count.lua is given: amount, window, burst, cost
-- reply   1
--
-- What is left is never less than if the request had not been counted; `appguard.rate` says why. What is kept, and how,
-- stands in count.lua.
local HEAD, HEAD_BYTES = '>ddddI4', 36
local RUN, RUN_BYTES = '>dI4', 12
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local counted = tonumber(ARGV[1]) / 1000

-- Take a cost out of the first run that was not over when it was counted; give the runs, what was taken, and the time of
-- the oldest that holds a request now.
local function take_out(runs, cost)
  local taken, oldest, parts = nil, 0, {}
  for at = 1, #runs, RUN_BYTES do
    local last, number = struct.unpack(RUN, runs, at)
    if not taken and last >= counted then
      taken = math.min(cost, number)
      number = number - taken
    end
    if oldest == 0 and number > 0 then oldest = last end
    parts[#parts + 1] = struct.pack(RUN, last, number)
  end
  return table.concat(parts), taken or 0, oldest
end

local function in_window(packed, cost)
  local opened, _, total, last, number = struct.unpack(HEAD, packed)
  local runs, taken, oldest = take_out(packed:sub(HEAD_BYTES + 1) .. struct.pack(RUN, last, number), cost)
  local newest, older = runs:sub(-RUN_BYTES), runs:sub(1, -RUN_BYTES - 1)
  return struct.pack('>ddd', opened, oldest, total - taken) .. newest .. older
end

local at = 1
for _, key in ipairs(KEYS) do
  local packed, amount, window, burst, cost = redis.call('GET', key), nil, nil, nil, nil
  amount, window, burst, cost, at = struct.unpack('>dddd', ARGV[2], at)
  local left
  if packed and burst > 0 then
    left = struct.pack('>d', struct.unpack('>d', packed) - math.max(0, cost * window / amount - (now - counted)))
  elseif packed and now - counted < window and #packed >= HEAD_BYTES and #packed % RUN_BYTES == 0 then
    left = in_window(packed, cost)
  end
  if left then redis.call('SET', key, left, 'KEEPTTL') end
end
return 1
