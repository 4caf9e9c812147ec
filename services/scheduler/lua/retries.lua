-- The budget of retries; follows stops.lua in every script. No KEYS or ARGV of its own.
-- Retries may be a tenth of the traffic beyond first attempts. Each takes one and gives back two if it succeeds, so
-- that a pool which has recovered is soon served in full; one in 5 s is always free, so that nothing waits for ever.
local function earn_retries(bucket, limits, amount)
  local most = math.max(10, (limits.requests or 0) / 6)
  local trickle = math.max(0, now - (tonumber(bucket.retries_at) or now)) / 5000
  bucket.retries = math.min(most, (tonumber(bucket.retries) or most) + trickle + amount)
  bucket.retries_at = now
  redis.call('HSET', key('bucket'), 'retries', precise(bucket.retries), 'retries_at', now)
end

-- A retry has gone well: two more may follow.
local function repay(bucket, limits, r)
  if not r.again then return end
  earn_retries(bucket, limits, 2)
  redis.call('HDEL', key('req:' .. r.id), 'again')
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
      if r.member then
        resume(bucket, r)
        enter(r)
      end
    end
  end
end
