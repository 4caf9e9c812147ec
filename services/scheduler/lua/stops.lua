-- What a spend limit stops; follows order.lua in every script. No KEYS or ARGV of its own.
-- The whole pool stands still by a pause (pauses.lua). A tier whose limit is reached is left out until the time in the
-- bucket's `stopped:TIER`; requests of a user in `stopped` back off until theirs as they are popped, and keep their ranks.
-- `spent` is what spend.lua was told. The bucket's `stops` says that there may be users, so that nobody else pays for it.

-- Until when a user's requests wait, nil: they may go.
local function user_stopped(bucket, r)
  local until_ms = bucket.stops and tonumber(redis.call('ZSCORE', key('stopped'), r.user))
  return until_ms and until_ms > now and until_ms
end

-- Whether a tier is left out. When its time is over it begins at the pool's virtual time, as one that had nothing
-- waiting: else it went alone until it had caught up with what the others were served meanwhile.
local function tier_stopped(bucket, tier)
  local until_ms = tonumber(bucket['stopped:' .. tier])
  if not until_ms then return false end
  if until_ms > now then return true end
  redis.call('HDEL', key('bucket'), 'stopped:' .. tier)
  redis.call('HSET', meta, 'T:' .. tier, precise(math.max(field(meta, 'T:' .. tier), field(meta, 'V'))))
  return false
end

-- True if r was popped and has to wait for its user's limit.
local function stop(bucket, r)
  local until_ms = user_stopped(bucket, r)
  if not until_ms then return false end
  leave(r)
  list_user(r)
  redis.call('ZADD', key('backoff'), until_ms, r.id)
  return true
end

-- Before the first of a user's comes back: they begin at V, for what others were served meanwhile is no claim.
local function resume(bucket, r)
  if not bucket.stops or user_stopped(bucket, r) or redis.call('ZREM', key('stopped'), r.user) == 0 then return end
  local user = user_of(r)
  local F = math.max(user.F, field(meta, 'V:' .. r.tier) + user.waiting)
  redis.call('HSET', account(r), 'F', precise(F))
  retag(r)
  r.tag = redis.call('HGET', key('req:' .. r.id), 'tag')
end
