-- What the pool does about a provider that fails: one in which most attempts fail stops but for single probes.
-- Follows pauses.lua in every script. No KEYS or ARGV of its own.
local PROBE_MS = 15000
local BREAKER_CAP_MS = 30000

-- An attempt failed for the provider's sake. A request counts once until another one is served: one that alone
-- draws errors cannot stop the pool. Returns whether the pool as a whole fails.
local function failed(bucket, r)
  local new = redis.call('ZADD', key('failing'), now, r.id) == 1
  redis.call('PEXPIRE', key('failing'), 120000)
  if new or bucket.breaker_ms then
    bucket.failing = 0.9 * (tonumber(bucket.failing) or 0) + 0.1
    redis.call('HSET', key('bucket'), 'failing', precise(bucket.failing))
  end
  -- Calls that are answered and then break off: that the next one is answered says nothing.
  if not r.asked then redis.call('HSET', key('bucket'), 'breaks_off', 1) end
  local broken = redis.call('ZCARD', key('failing')) >= 3
  -- Those that were sent before it opened say nothing new: a burst of twenty would close the pool for half a minute.
  local late = bucket.breaker_ms and (r.mark and cjson.decode(r.mark).at or 0) < (tonumber(bucket.breaker_at) or 0)
  if broken and not late and tonumber(bucket.failing) > 0.5 then
    bucket.breaker_ms = math.min(BREAKER_CAP_MS, 2 * (tonumber(bucket.breaker_ms) or 500))
    redis.call('HSET', key('bucket'), 'breaker_ms', bucket.breaker_ms, 'breaker_at', now)
    end_pause(bucket, 'provider_down')
    pause_for(bucket, bucket.breaker_ms, 'provider_down')
  end
  return broken
end

-- The provider answers: the breaker closes, warily.
local function revived(bucket)
  if not bucket.breaker_ms or bucket.breaks_off then return end
  redis.call('HDEL', key('bucket'), 'breaker_ms')
  redis.call('HSET', key('bucket'), 'failing', 0.4)
  end_pause(bucket, 'provider_down')
end

-- An attempt was served to its end: nobody fails for lack of a provider now.
local function succeeded(bucket)
  redis.call('DEL', key('failing'))
  redis.call('HDEL', key('bucket'), 'breaks_off')
  bucket.breaks_off = nil
  if bucket.failing then redis.call('HSET', key('bucket'), 'failing', precise(0.9 * tonumber(bucket.failing))) end
  revived(bucket)
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
    bucket.part = math.max(0.05, bucket.part * (ramp and 0.5 or 0.93))
    redis.call('HSET', key('bucket'), 'part', precise(bucket.part), 'part_at', now, 'ramp', ramp and 1 or 0)
  end
end
