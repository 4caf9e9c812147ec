-- The pool at a glance, and where the requests named stand. Changes nothing.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3..]  ids
-- Returns JSON: {now, tiers: {tier: {T, share, queued, sum}}, limits, levels, bucket, running, places: [...]};
-- a place is {tier, rank (0 is next), cost, not_before?} or false for one that is not in line.
local bucket, levels, limits = load_bucket()
local tiers = {}
for _, tier in ipairs(redis.call('SMEMBERS', key('tiers'))) do
  local r = redis.call('HMGET', meta, 'T:' .. tier, 'share:' .. tier, 'sum:' .. tier)
  tiers[tier] = {T = tonumber(r[1]) or 0, share = tonumber(r[2]) or 1, sum = tonumber(r[3]) or 0,
    queued = redis.call('ZCARD', key('line:' .. tier))}
end
local places = {}
for i = 3, #ARGV do
  local r = redis.call('HMGET', key('req:' .. ARGV[i]), 'tier', 'member', 'cost', 'tag', 'work')
  local place = false
  if r[2] then
    local rank = redis.call('ZRANK', key('line:' .. r[1]), r[2])
    local not_before = not rank and (redis.call('ZSCORE', key('backoff'), ARGV[i])
      or r[5] and redis.call('ZSCORE', key('behind:' .. r[5]), ARGV[i]))
    if rank then place = {tier = r[1], rank = rank, cost = tonumber(r[3])}
    elseif not_before then
      place = {tier = r[1], rank = redis.call('ZCOUNT', key('line:' .. r[1]), '-inf', '(' .. r[4]),
        cost = tonumber(r[3]), not_before = tonumber(not_before)}
    end
  end
  table.insert(places, place)
end
return cjson.encode({now = now, tiers = tiers, limits = limits, levels = levels, bucket = bucket,
  running = redis.call('ZCARD', key('leases')), backing_off = redis.call('ZCARD', key('backoff')), places = places})
