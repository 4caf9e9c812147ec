-- What the pool does about a provider that fails: retries have a budget, and a pool in which most attempts fail stops
-- but for single probes. Follows order.lua in every script. No KEYS or ARGV of its own.
local PROBE_MS = 15000
local BREAKER_CAP_MS = 30000

local function pause_for(bucket, length_ms, why)
  if now + length_ms <= (tonumber(bucket.paused_until) or 0) then return end
  bucket.paused_until, bucket.paused_why = now + length_ms, why
  redis.call('HSET', key('bucket'), 'paused_until', bucket.paused_until, 'paused_why', why)
end

-- Retries may be a tenth of the traffic beyond first attempts. Each takes one and gives back two if it succeeds, so
-- that a pool which has recovered is soon served in full; one in 5 s is always free, so that nothing waits for ever.
local function earn_retries(bucket, limits, amount)
  local most = math.max(10, (limits.requests or 0) / 6)
  local trickle = math.max(0, now - (tonumber(bucket.retries_at) or now)) / 5000
  bucket.retries = math.min(most, (tonumber(bucket.retries) or most) + trickle + amount)
  bucket.retries_at = now
  redis.call('HSET', key('bucket'), 'retries', precise(bucket.retries), 'retries_at', now)
end

-- Back into line, whose time has come; a retry only while the budget lasts, else a second later.
local function wake_backoff(bucket, limits)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('backoff'), '-inf', now, 'LIMIT', 0, 200)) do
    local r = read(id)
    if r.again then earn_retries(bucket, limits, 0) end
    if r.again and bucket.retries < 1 then
      redis.call('ZADD', key('backoff'), now + 1000, id)
    else
      if r.again then earn_retries(bucket, limits, -1) end
      redis.call('ZREM', key('backoff'), id)
      if r.member then enter(r) end
    end
  end
end

-- An attempt was served to its end: nobody fails for lack of a provider now.
local function succeeded(bucket)
  redis.call('DEL', key('failing'))
  if bucket.failing then redis.call('HSET', key('bucket'), 'failing', precise(0.9 * tonumber(bucket.failing))) end
end

-- An attempt failed for the provider's sake. A request counts once until another one is served: one that alone
-- draws errors cannot stop the pool. Returns whether the pool as a whole fails.
local function failed(bucket, r)
  local new = redis.call('ZADD', key('failing'), now, r.id) == 1
  redis.call('PEXPIRE', key('failing'), 120000)
  if new or bucket.breaker_ms then
    bucket.failing = 0.9 * (tonumber(bucket.failing) or 0) + 0.1
    redis.call('HSET', key('bucket'), 'failing', precise(bucket.failing))
  end
  local broken = redis.call('ZCARD', key('failing')) >= 3
  if broken and tonumber(bucket.failing) > 0.5 then
    bucket.breaker_ms = math.min(BREAKER_CAP_MS, 2 * (tonumber(bucket.breaker_ms) or 500))
    redis.call('HSET', key('bucket'), 'breaker_ms', bucket.breaker_ms, 'paused_until', now, 'paused_why', '')
    bucket.paused_until = now
    pause_for(bucket, bucket.breaker_ms, 'provider_down')
  end
  return broken
end

-- The provider answers: the breaker closes, warily.
local function revived(bucket)
  if not bucket.breaker_ms then return end
  redis.call('HDEL', key('bucket'), 'breaker_ms', 'paused_until', 'paused_why')
  redis.call('HSET', key('bucket'), 'failing', 0.4)
end

-- A 429: the pool rests. Where they go on for 10 s though there seemed to be room, others use the key too, and our
-- part of it is cut; a row of them ends after 10 s without one. Bursts of them, sent at once, cut once.
local function refused(bucket, r, rest_ms, ramp)
  redis.call('HINCRBY', key('bucket'), 'pauses', 1)
  pause_for(bucket, rest_ms, 'provider_limit')
  local passed = tonumber(bucket.passed) or 0
  if not r.passed or passed > tonumber(r.passed) then r.refusals = (tonumber(r.refusals) or 0) + 1 end
  r.denied = (tonumber(r.denied) or 0) + 1
  redis.call('HSET', key('req:' .. r.id), 'passed', passed, 'refusals', r.refusals, 'denied', r.denied)
  local since = now - (tonumber(bucket.refused_at) or 0) > 10000 and now or tonumber(bucket.refused_since)
  redis.call('HSET', key('bucket'), 'refused_at', now, 'refused_since', since)
  local persists = bucket.part < 1 or now - since >= 10000
  if (persists or ramp) and now - (tonumber(bucket.part_at) or 0) > 2000 then
    redis.call('HSET', key('bucket'), 'part', precise(math.max(0.05, bucket.part * (ramp and 0.5 or 0.93))), 'part_at', now)
  end
end
