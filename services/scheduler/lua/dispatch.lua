-- Takes from the line what may go now: next by tier share, then by tag, while every bucket allows it.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  how many at most   ARGV[4]  how long the lease of each lasts, in ms
-- ARGV[5]  how many all generators together can run at once
-- Returns {ms until it is worth asking again (-1: only after a wake-up), ms after which each is to be sent, then for
-- each request taken: id, attempts begun so far}.
-- Where a bucket holds one call, what one meets on its way may not bring the next closer: a commit takes 2 to 30 ms.
local EVEN_MS = 40
local many, lease_ms = tonumber(ARGV[3]), tonumber(ARGV[4])
free_first()
local tiers = redis.call('SMEMBERS', key('tiers'))
local bucket, levels, limits, capacity = load_bucket()
wake_backoff(bucket, limits)

local function head(tier)
  local first = redis.call('ZRANGE', key('line:' .. tier), 0, 0)[1]
  if not first then return nil end
  local r = read(string.sub(first, 13))
  if not r.member then
    -- An entry whose request is gone must not stop those behind it.
    redis.call('ZREM', key('line:' .. tier), first)
    return head(tier)
  end
  r.T = field(meta, 'T:' .. tier)
  r.finish = r.T + r.cost / math.max(1, field(meta, 'share:' .. tier))
  return r
end

local backoff = redis.call('ZRANGE', key('backoff'), 0, 0, 'WITHSCORES')
local wait = backoff[2] and math.max(1, tonumber(backoff[2]) - now) or -1
-- No limit known means the limits were lost, never that there are none.
if next(limits) == nil then return {1000, 0} end
local pause = tonumber(bucket.paused_until) or 0
if pause > now then return {math.min(pause - now, 1000), 0} end
-- The breaker is open: a single one goes to see whether the provider is back.
many = math.min(many, bucket.breaker_ms and 1 or many, (bucket.a_day or math.huge) - bucket.today)

local room = math.min(tonumber(ARGV[5]), bucket.at_once or math.huge) - redis.call('ZCARD', key('leases'))
local heads, taken, parked, answer = {}, 0, 0, {wait, capacity.requests == 1 and EVEN_MS or 0}
for _, tier in ipairs(tiers) do heads[tier] = not tier_stopped(bucket, tier) and head(tier) or nil end
-- What goes next, and the smallest T. Parking or stopping 500 at most bounds the script.
local function pop()
  local first, smallest = nil, nil
  for _, h in pairs(heads) do
    if not first or h.finish < first.finish or (h.finish == first.finish and h.tier < first.tier) then first = h end
    if not smallest or h.T < smallest then smallest = h.T end
  end
  if not first or parked >= 500 or not (stop(bucket, first) or park(first)) then return first, smallest end
  parked = parked + 1
  heads[first.tier] = head(first.tier)
  return pop()
end
while true do
  local first, smallest = pop()
  if not first then break end
  if taken >= many or parked >= 500 then answer[1] = 0 break end
  if taken >= room then answer[1] = 1000 break end
  local input, output = expected(bucket, first)
  local short_ms = until_there_is(needs(input, output), bucket, levels, limits, capacity)
  if short_ms > 0 then answer[1] = math.ceil(short_ms) break end
  raise_V(first.tier, first.cost)
  leave(first)
  unqueue(first, true)
  redis.call('ZADD', key('leases'), now + lease_ms, first.id)
  fly(first)
  first.mark = nil -- The release before this one left that of the last attempt.
  take(bucket, levels, first, input, output)
  if tonumber(first.attempt) == 0 then earn_retries(bucket, limits, 0.1) end
  redis.call('HSET', meta, 'T:' .. first.tier, precise(first.finish),
    'V', precise(math.max(field(meta, 'V'), smallest)))
  table.insert(answer, first.id)
  table.insert(answer, first.attempt)
  taken = taken + 1
  heads[first.tier] = head(first.tier)
end
-- The first look at a new bucket starts its clock, and so does one after the clock was set back.
if taken > 0 or (tonumber(bucket.at) or math.huge) > now then save(bucket, levels) end
if taken > 0 and bucket.breaker_ms then pause_for(bucket, PROBE_MS, 'provider_down') end
return answer
