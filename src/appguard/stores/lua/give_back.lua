-- Take one reserved request out of its counters again.
-- KEYS    one counter per limit
-- ARGV    the time it was counted, in microseconds; then per limit as for count.lua: amount, window, burst, cost
-- reply   1
--
-- What is left is never less than if the request had not been counted; `appguard.rate` says why.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local counted = tonumber(ARGV[1]) / 1000

local function in_window(packed, cost)
  local at = 9
  while at <= #packed do
    local last, number, following = struct.unpack('>dI4', packed, at)
    if last >= counted then
      local left = struct.pack('>dI4', last, number - math.min(cost, number))
      return packed:sub(1, at - 1) .. left .. packed:sub(following)
    end
    at = following
  end
end

for i, key in ipairs(KEYS) do
  local amount, window = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local burst, cost = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local packed, left = redis.call('GET', key), nil
  if packed and burst > 0 then
    left = struct.pack('>d', struct.unpack('>d', packed) - math.max(0, cost * window / amount - (now - counted)))
  elseif packed and now - counted < window then
    left = in_window(packed, cost)
  end
  if left then redis.call('SET', key, left, 'KEEPTTL') end
end
return 1
