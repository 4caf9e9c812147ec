-- What the provider allows and how much of it is left; follows pool.lua in every script. No KEYS or ARGV of its own.
-- One bucket for each limit a minute, all in the hash `bucket`; a day's requests and concurrency are counts.
local DIMENSIONS = {'requests', 'tokens', 'input_tokens', 'output_tokens'}
local DAY_MS = 86400000
local function needs(input, output)
  return {requests = 1, tokens = input + output, input_tokens = input, output_tokens = output}
end

-- The smaller of an override and what the provider's headers say (else its plan).
local function in_force(bucket, name)
  local override, named = tonumber(bucket['override:' .. name]), tonumber(bucket['header:' .. name] or bucket['plan:' .. name])
  return override and named and math.min(override, named) or override or named
end

-- A little slower than the limit, so that jitter on the way cannot squeeze two calls into one refill: where a bucket
-- holds one call (120 a minute and fewer) the margin is all there is, 36 ms or 1.5%. Above, the half second that the
-- provider's bucket holds and ours does not takes up the jitter.
local function pace(limit) return limit <= 120 and math.max(0.985, 1 - 0.0006 * limit) or 0.998 end

-- Our part of a key that others use too (1: all of it). It grows slowly for 20 s after a cut, then fast: what made
-- the cut necessary is met again soon if it is still there, and forgotten soon if it is gone.
local function part_of(bucket)
  local quiet_s = math.max(0, now - (tonumber(bucket.part_at) or now)) / 1000
  return math.min(1, (tonumber(bucket.part) or 1) + 0.0025 * quiet_s + 0.02 * math.max(0, quiet_s - 20))
end

local function load_bucket()
  local flat, bucket = redis.call('HGETALL', key('bucket')), {}
  for i = 1, #flat, 2 do bucket[flat[i]] = flat[i + 1] end
  bucket.part = part_of(bucket)
  bucket.part_at = bucket.part < 1 and bucket.part_at or nil
  local elapsed = math.max(0, now - (tonumber(bucket.at) or now))
  local levels, limits, capacity = {}, {}, {}
  for _, dim in ipairs(DIMENSIONS) do
    local limit = in_force(bucket, dim)
    if limit then
      limits[dim] = limit
      -- Half a second's worth: a one-second burst against a one-second provider bucket drew 5% 429s, half none.
      capacity[dim] = math.max(1, limit / 120)
      if dim ~= 'requests' then
        capacity[dim] = math.min(limit, math.max(limit / 60, 2 * (tonumber(bucket.largest) or 0)))
      end
      local refilled = elapsed * limit * pace(limit) * bucket.part / 60000
      levels[dim] = math.min(capacity[dim], (tonumber(bucket['level:' .. dim]) or 0) + refilled)
    end
  end
  local day = math.floor(now / DAY_MS)
  if tonumber(bucket.day) ~= day then bucket.day, bucket.today = day, 0 end
  bucket.a_day, bucket.at_once = in_force(bucket, 'requests_day'), in_force(bucket, 'concurrency')
  if bucket.a_day and tonumber(bucket.today) >= bucket.a_day then
    bucket.paused_until, bucket.paused_why = (day + 1) * DAY_MS, 'provider_limit'
  end
  return bucket, levels, limits, capacity
end

local SAVED = {'at', 'day', 'today', 'largest'}
local function save(bucket, levels)
  bucket.at = now
  local flat = {}
  local function put(name, value) if value then flat[#flat + 1] = name flat[#flat + 1] = precise(value) end end
  for dim, level in pairs(levels) do put('level:' .. dim, level) end
  for _, name in ipairs(SAVED) do put(name, bucket[name]) end
  for _, dim in ipairs(DIMENSIONS) do
    put('sent:' .. dim, bucket['sent:' .. dim])
    put('unanswered:' .. dim, bucket['unanswered:' .. dim])
  end
  redis.call('HSET', key('bucket'), unpack(flat))
end
