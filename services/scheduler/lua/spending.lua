-- What calls take from the buckets and what they cost; follows limits.lua in every script. No KEYS or ARGV of its own.
local function count(bucket, name, amount) bucket[name] = (tonumber(bucket[name]) or 0) + amount end

-- What a call will probably use, by what was learned of its kind; never max_tokens, which would starve the pool.
local function expected(bucket, r)
  local output = tonumber(bucket['mean_output:' .. (r.kind or '')]) or tonumber(bucket.mean_output) or tonumber(r.output)
  return r.input * (tonumber(bucket.input_ratio) or 1), math.min(output, tonumber(r.max) or output)
end

-- Ms until every level allows it; what is larger than a bucket may go when that is full.
local function until_there_is(need, bucket, levels, limits, capacity)
  local wait_ms = 0
  for dim, level in pairs(levels) do
    local lack = math.min(need[dim], capacity[dim]) - level
    if lack > 1e-9 then wait_ms = math.max(wait_ms, lack * 60000 / (limits[dim] * pace(limits[dim]) * bucket.part)) end
  end
  return wait_ms
end

-- The provider has answered, or never will.
local function answered(bucket, r)
  if not r.asked then return end
  local asked = cjson.decode(r.asked)
  local need = needs(asked[1], asked[2])
  for _, dim in ipairs(DIMENSIONS) do count(bucket, 'unanswered:' .. dim, -need[dim]) end
  redis.call('HDEL', key('req:' .. r.id), 'asked')
end

-- Takes what a call will probably use, into debt if need be. Noted at the request: when it was sent, what it took
-- in all, what had been sent by then and what of that was not answered; `asked` is what it took for this call.
local function take(bucket, levels, r, input, output)
  -- The answer before it may never have been heard of here.
  answered(bucket, r)
  local need, mark = needs(input, output), r.mark and cjson.decode(r.mark) or {input = 0, output = 0}
  for dim, level in pairs(levels) do levels[dim] = level - need[dim] end
  for _, dim in ipairs(DIMENSIONS) do
    mark['open:' .. dim] = tonumber(bucket['unanswered:' .. dim]) or 0
    count(bucket, 'sent:' .. dim, need[dim])
    count(bucket, 'unanswered:' .. dim, need[dim])
    mark[dim] = bucket['sent:' .. dim]
  end
  count(bucket, 'today', 1)
  bucket.largest = math.max(0.99 * (tonumber(bucket.largest) or 0), input + output)
  mark.at, mark.input, mark.output = now, mark.input + input, mark.output + output
  redis.call('HSET', key('req:' .. r.id), 'mark', cjson.encode(mark), 'asked', cjson.encode({input, output}))
end

-- Takes what was used beyond the estimate, or gives back what was not; the requests themselves stay taken.
local function settle(bucket, levels, r, input, output)
  local mark = r.mark and cjson.decode(r.mark) or {input = r.input, output = r.output}
  local more = needs(input - mark.input, output - mark.output)
  more.requests = 0
  -- The headers of its answer told what was left once its input was counted.
  if mark.told then more.input_tokens = 0 end
  for dim, level in pairs(levels) do levels[dim] = level - more[dim] end
end

-- A request's share of the pool in provider-seconds: its need of the dimension it strains most.
local function cost_of(bucket, limits, input, output, took_ms)
  local cost, need = 0, needs(input, output)
  for dim, limit in pairs(limits) do cost = math.max(cost, need[dim] * 60 / limit) end
  if bucket.a_day then cost = math.max(cost, 86400 / bucket.a_day) end
  if bucket.at_once then cost = math.max(cost, (took_ms or tonumber(bucket.mean_ms) or 0) / 1000 / bucket.at_once) end
  -- Without any limit everything costs the same, and the order is by count.
  return cost > 0 and cost or 1
end
