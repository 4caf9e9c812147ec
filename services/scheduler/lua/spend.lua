-- What was spent today: stops what has reached its limit until midnight, lets go on what has not or no longer has one.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  the UTC day, since 1970   ARGV[4..]  three for each scope: 'site', 'tier/NAME' or 'user/ID', nano-dollars
--          spent on that day, its limit ('': none)
-- Sums are told by whoever read them; of two that pass each other the larger one is the newer. Returns 1.
free_first()
local day, spent, bucket, freed = tonumber(ARGV[3]), key('spent'), load_bucket(), false
local known = field(spent, 'day')
if day < known then return 1 end
if day > known then
  redis.call('DEL', spent)
  redis.call('HSET', spent, 'day', day)
end

local function stop_site(until_ms)
  if until_ms == 0 then end_pause(bucket, 'spend_limit') return true end
  bucket['pause:spend_limit'] = until_ms
  redis.call('HSET', key('bucket'), 'pause:spend_limit', until_ms)
  choose_pause(bucket)
end

-- What backs off until the end of the stop goes on with its user.
local function free_user(user, stopped_until)
  local found = false
  for _, tier in ipairs(redis.call('SMEMBERS', key('tiers'))) do
    for _, id in ipairs(redis.call('ZRANGE', own({tier = tier, user = user}), 0, -1)) do
      if redis.call('ZSCORE', key('backoff'), id) == stopped_until then
        found = true
        redis.call('ZADD', key('backoff'), now, id)
      end
    end
  end
  -- dispatch.lua takes it out once it has seen that it is over.
  if found then redis.call('ZADD', key('stopped'), now, user) else redis.call('ZREM', key('stopped'), user) end
end

local function put(kind, name, until_ms)
  if kind == 'site' then
    return until_ms ~= (tonumber(bucket['pause:spend_limit']) or 0) and stop_site(until_ms)
  elseif kind == 'tier' then
    local before = tonumber(bucket['stopped:' .. name]) or 0
    if until_ms > 0 then redis.call('HSET', key('bucket'), 'stopped:' .. name, until_ms)
    elseif before > now then redis.call('HSET', key('bucket'), 'stopped:' .. name, now) end
    return until_ms == 0 and before > now
  end
  local before = redis.call('ZSCORE', key('stopped'), name)
  if until_ms > 0 then redis.call('ZADD', key('stopped'), until_ms, name)
  elseif before and tonumber(before) > now then free_user(name, before) return true end
end

for i = 4, #ARGV, 3 do
  local kind, name = string.match(ARGV[i], '^(%a+)/?(.*)$')
  local sum, cap = math.max(field(spent, ARGV[i]), tonumber(ARGV[i + 1])), tonumber(ARGV[i + 2])
  if cap then redis.call('HSET', spent, ARGV[i], precise(sum)) else redis.call('HDEL', spent, ARGV[i]) end
  freed = put(kind, name, cap and sum >= cap and (day + 1) * DAY_MS or 0) or freed
end
-- Those whose stop was over a day ago had nothing that waited for it.
redis.call('ZREMRANGEBYSCORE', key('stopped'), '-inf', now - DAY_MS)
if redis.call('ZCARD', key('stopped')) > 0 then redis.call('HSET', key('bucket'), 'stops', 1)
else redis.call('HDEL', key('bucket'), 'stops') end
if freed then redis.call('PUBLISH', base .. 'wake', 1) end
return 1
