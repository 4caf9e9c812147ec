-- What users of a tier have been served; follows pool.lua in every script. It has no KEYS or ARGV of its own.
--
-- A Virtual Token Counter in tags. A user has F, what they will have been served once all they queued is, and
-- `waiting`, the cost of all of it, so S = F - waiting is their service so far. A request's tag is S and the cost of
-- the user's own before it, by priority, then acceptance; the smallest tag of a tier goes first, of equals the one
-- that came first. Who had nothing that could go starts at V (see raise_V).
-- (With its own cost in its tag a request that is dearer than others never went while newcomers kept coming.)
local function account(r) return key('user:' .. r.tier .. ':' .. r.user) end
local function own(r) return key('own:' .. r.tier .. ':' .. r.user) end
local function field(hash, name) return tonumber(redis.call('HGET', hash, name)) or 0 end
local function add(hash, name, amount) redis.call('HSET', hash, name, precise(field(hash, name) + amount)) end
local function user_of(r)
  local values = redis.call('HMGET', account(r), 'F', 'waiting', 'ready')
  return {F = tonumber(values[1]) or 0, waiting = tonumber(values[2]) or 0, ready = tonumber(values[3]) or 0}
end
local function service(r) local user = user_of(r) return user.F - user.waiting end

-- The tier's users who have something that could go now, by their service so far.
local function list_user(r, user)
  user = user or user_of(r)
  if user.ready > 0 then redis.call('ZADD', key('users:' .. r.tier), precise(user.F - user.waiting), r.user)
  else redis.call('ZREM', key('users:' .. r.tier), r.user) end
end

-- V is what a user who was always there would have been served: it grows by each request's cost over the users who
-- have something that could go, between their smallest service and their largest, and never falls. (As the smallest
-- alone it stood still while newcomers kept coming, and who was served before waited for all of them.)
local function raise_V(tier, cost)
  local users = key('users:' .. tier)
  local least = tonumber(redis.call('ZRANGE', users, 0, 0, 'WITHSCORES')[2])
  if not least then return end
  local most, V = tonumber(redis.call('ZREVRANGE', users, 0, 0, 'WITHSCORES')[2]), field(meta, 'V:' .. tier)
  local risen = math.max(least, math.min(most, V + cost / redis.call('ZCARD', users)))
  if risen > V then redis.call('HSET', meta, 'V:' .. tier, precise(risen)) end
end

-- Gives all of a user's queued requests their tags anew: O(k log n), k = what that user has queued.
local function retag(r)
  local tag = service(r)
  for _, id in ipairs(redis.call('ZRANGE', own(r), 0, -1)) do
    local other = redis.call('HMGET', key('req:' .. id), 'cost', 'member')
    redis.call('HSET', key('req:' .. id), 'tag', precise(tag))
    redis.call('ZADD', key('line:' .. r.tier), 'XX', precise(tag), other[2])
    tag = tag + (tonumber(other[1]) or 0)
  end
  list_user(r)
end

-- An attempt cost more or less than was assumed: the user's service, their tags and their tier's time follow.
local function correct(r, difference)
  if difference == 0 then return end
  add(account(r), 'F', difference)
  -- Who has never had anything queued since a rebuild has no account that would go away by itself.
  redis.call('EXPIRE', account(r), 172800)
  add(meta, 'T:' .. r.tier, difference / math.max(1, field(meta, 'share:' .. r.tier)))
  retag(r)
end

-- How many turns of its own cost a request stands behind one of a user who comes now.
local function depth(r)
  return math.max(0, r.tag - field(meta, 'V:' .. r.tier)) / math.max(r.cost, 1e-9)
end
