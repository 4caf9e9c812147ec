-- Puts accepted requests in line, each at the end of its user's own. Repeatable: one that is in line,
-- backing off, leased or ended already is left alone. May be refused at maxmemory (the sweep repeats it).
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3..]  eight for each request: id, tier, share, user, estimated input tokens, estimated output
--            tokens, attempts begun so far, not_before in ms (0: at once)
-- ARGV's last  the number below every event number of this epoch
-- Returns the number of requests placed.
local _, _, limits = load_bucket()
local placed, floor = 0, ARGV[#ARGV]

-- A request's share of the pool in provider-seconds: its need of the dimension it strains most.
local function cost_of(input, output)
  local cost, need = 0, needs(input, output)
  for dim, limit in pairs(limits) do cost = math.max(cost, need[dim] * 60 / limit) end
  -- Without any limit everything costs the same, and the order is by count.
  return cost > 0 and cost or 1
end

for i = 3, #ARGV - 1, 8 do
  local id, tier, share, user = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local input, output = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5])
  local attempt, not_before = ARGV[i + 6], tonumber(ARGV[i + 7])
  local req, account = key('req:' .. id), key('user:' .. tier .. ':' .. user)
  local known = redis.call('HMGET', req, 'member', 'closed', 'tier')
  if not known[2] and not (known[1] and held(id, known[3], known[1])) then
    local cost = cost_of(input, output)
    local start = tonumber(redis.call('HGET', account, 'F')) or 0
    if (tonumber(redis.call('HGET', account, 'queued')) or 0) <= 0 then
      start = math.max(start, tonumber(redis.call('HGET', meta, 'V:' .. tier)) or 0)
      redis.call('HSET', account, 'queued', 0)
    end
    local tag = start + cost
    redis.call('HSET', account, 'F', precise(tag))
    redis.call('HINCRBY', account, 'queued', 1)
    redis.call('EXPIRE', account, 86400)
    -- A sequence number first, so that equal tags keep the order of arrival.
    local member = string.format('%012d', redis.call('HINCRBY', meta, 'sequence', 1)) .. id
    redis.call('HSET', req, 'tier', tier, 'user', user, 'member', member, 'tag', precise(tag), 'cost', precise(cost),
      'input', input, 'output', output)
    redis.call('HSETNX', req, 'attempt', attempt)
    redis.call('HSETNX', req, 'seq', floor)
    redis.call('HSET', meta, 'share:' .. tier, share)
    redis.call('SADD', key('tiers'), tier)
    if not_before > now then
      redis.call('ZADD', key('backoff'), not_before, id)
    else
      enter(id, tier, precise(tag), member, precise(cost))
    end
    placed = placed + 1
  end
end
if placed > 0 then redis.call('PUBLISH', base .. 'wake', placed) end
return placed
