-- The pool at a glance, and where the requests named stand. Changes nothing.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  1: also what is queued along each tier's line, '': not
-- ARGV[4..7]  user, tier, estimated input tokens, estimated output tokens of one who only asks, or '' each
-- ARGV[8..]  ids
-- Returns JSON: {now, V, tiers: {tier: {T, share, queued, sum, arrived, along?}}, limits, levels, bucket, running,
-- backing_off, concurrency?, asked?: place, places: [place or false for one that is not in line]}.
-- A place is {tier, rank (0 is next), depth, cost, not_before?, stopped? (until when its user's spend limit keeps it)};
-- along is in `along` below. T and costs of heads are text: JSON's numbers have 14 digits here, and the order of equals
-- would be lost.
local HEADS, FIRST, STRATA, BLOCK = 400, 100, 16, 16
local bucket, levels, limits = load_bucket()
-- The bucket with what was learned of very many answers in the place of what was learned of the last.
local lasting = {}
for name, value in pairs(bucket) do lasting[name] = bucket['long:' .. name] or value end

-- {ids: of the first 100, costs: of the first 400, strata: 16 of all behind, each {its last rank + 1, its mean cost},
-- now, then: cost of some heads by what is known today, and as they were placed}
local function along(tier)
  local line, found = key('line:' .. tier), {ids = {}, costs = {}, strata = {}, now = 0, ['then'] = 0}
  local function cost(member) return redis.call('HGET', key('req:' .. string.sub(member, 13)), 'cost') end
  for i, member in ipairs(redis.call('ZRANGE', line, 0, HEADS - 1)) do
    found.costs[i] = cost(member) or '0'
    if i <= FIRST then found.ids[i] = string.sub(member, 13) end
    if i <= BLOCK then
      local r = read(found.ids[i])
      if r.member then
        found.now, found['then'] = found.now + cost_of(bucket, limits, expected(lasting, r)), found['then'] + r.cost
      end
    end
  end
  local behind, from = redis.call('ZCARD', line) - HEADS, HEADS
  for s = 1, behind > 0 and STRATA or 0 do
    local to = HEADS + math.floor(behind * s / STRATA)
    local start, sum = math.max(from, math.floor((from + to - BLOCK) / 2)), 0
    local members = redis.call('ZRANGE', line, start, math.min(to, start + BLOCK) - 1)
    for _, member in ipairs(members) do sum = sum + (cost(member) or 0) end
    if #members > 0 then table.insert(found.strata, {to, sum / #members}) end
    from = to
  end
  return found
end

local tiers = {}
for _, tier in ipairs(redis.call('SMEMBERS', key('tiers'))) do
  tiers[tier] = {T = precise(field(meta, 'T:' .. tier)), share = math.max(1, field(meta, 'share:' .. tier)),
    sum = field(meta, 'sum:' .. tier), arrived = {},
    queued = redis.call('ZCARD', key('line:' .. tier)), along = ARGV[3] ~= '' and along(tier) or nil}
  for class = 1, 8 do tiers[tier].arrived[class] = field(meta, 'arrived:' .. tier .. ':' .. class - 1) end
end

local asked
if ARGV[5] ~= '' then
  local r = {user = ARGV[4], tier = ARGV[5], input = ARGV[6], output = ARGV[7]}
  r.cost = cost_of(bucket, limits, expected(bucket, r))
  r.tag = lifted_F(r, user_of(r))
  asked = {tier = r.tier, cost = r.cost, depth = depth(r), stopped = user_stopped(bucket, r) or nil,
    rank = redis.call('ZCOUNT', key('line:' .. r.tier), '-inf', precise(r.tag))}
end

local places = {}
for i = 8, #ARGV do
  local r, place = read(ARGV[i]), false
  local rank = r.member and redis.call('ZRANK', key('line:' .. r.tier), r.member)
  local not_before = r.member and not rank and (redis.call('ZSCORE', key('backoff'), r.id)
    or r.work and redis.call('ZSCORE', key('behind:' .. r.work), r.id))
  if not_before then rank = redis.call('ZCOUNT', key('line:' .. r.tier), '-inf', '(' .. r.tag) end
  if rank then
    place = {tier = r.tier, rank = rank, cost = tonumber(r.cost), not_before = tonumber(not_before),
      depth = depth(r), stopped = user_stopped(bucket, r) or nil}
  end
  table.insert(places, place)
end
return cjson.encode({now = now, V = field(meta, 'V'), tiers = tiers, limits = limits, levels = levels, bucket = bucket,
  running = redis.call('ZCARD', key('leases')), backing_off = redis.call('ZCARD', key('backoff')), asked = asked,
  places = places, concurrency = bucket.at_once})
