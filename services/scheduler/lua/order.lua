-- Into the line and out of it; follows service.lua in every script. It has no KEYS or ARGV of its own.
-- A request r is a table of its hash's fields and its id. It is in its tier's line, backing off, parked (same.lua),
-- leased, or gone.
local FIELDS = {'tier', 'user', 'member', 'cost', 'tag', 'rank', 'input', 'output', 'kind', 'max', 'attempt', 'closed', 'open',
  'seq', 'mark', 'asked', 'again', 'refusals', 'denied', 'passed', 'work'}
local function read(id)
  local values, r = redis.call('HMGET', key('req:' .. id), unpack(FIELDS)), {id = id}
  for i, name in ipairs(FIELDS) do r[name] = values[i] or nil end
  return r
end

local function held(r)
  return redis.call('ZSCORE', key('line:' .. r.tier), r.member) or redis.call('ZSCORE', key('leases'), r.id)
    or redis.call('ZSCORE', key('backoff'), r.id) or r.work and redis.call('ZSCORE', key('behind:' .. r.work), r.id)
end

-- A tier that had nothing in line begins at the pool's virtual time.
local function enter(r, user)
  if redis.call('ZCARD', key('line:' .. r.tier)) == 0 then
    local T = math.max(field(meta, 'T:' .. r.tier), field(meta, 'V'))
    redis.call('HSET', meta, 'T:' .. r.tier, precise(T), 'sum:' .. r.tier, 0)
  end
  if redis.call('ZADD', key('line:' .. r.tier), r.tag, r.member) == 1 then
    redis.call('HINCRBYFLOAT', meta, 'sum:' .. r.tier, r.cost)
    user = user or user_of(r)
    user.ready = redis.call('HINCRBY', account(r), 'ready', 1)
    list_user(r, user)
  end
end

-- Out of the line; what that means for its user is `unqueue`'s part.
local function leave(r)
  redis.call('ZREM', key('backoff'), r.id)
  if r.work then redis.call('ZREM', key('behind:' .. r.work), r.id) end
  if redis.call('ZREM', key('line:' .. r.tier), r.member) == 1 then
    redis.call('HINCRBYFLOAT', meta, 'sum:' .. r.tier, precise(-tonumber(r.cost)))
    redis.call('HINCRBY', account(r), 'ready', -1)
  end
end

-- Who has nothing that could go now begins at V. What is parked or backs off keeps its tag and is no claim to all that
-- others were served meanwhile: behind a long stream a parked copy of it was worth as much as the stream was long.
local function lifted_F(r, user)
  return user.ready > 0 and user.F or math.max(user.F, field(meta, 'V:' .. r.tier) + user.waiting)
end

-- Among its user's own, at the rank it has for life, and into line or backoff. `new`: its cost is not in F yet.
local function queue(r, not_before, new)
  local user = user_of(r)
  if new then user.F = lifted_F(r, user) end
  local begins = user.F
  if redis.call('ZADD', own(r), r.rank, r.id) == 1 then
    user.waiting = user.waiting + r.cost
    if new then user.F = user.F + r.cost end
  end
  redis.call('HSET', account(r), 'F', precise(user.F), 'waiting', precise(user.waiting))
  redis.call('EXPIRE', account(r), 172800)
  redis.call('EXPIRE', own(r), 172800)
  if new and redis.call('ZREVRANGE', own(r), 0, 0)[1] == r.id then
    r.tag = precise(begins)
    redis.call('HSET', key('req:' .. r.id), 'tag', r.tag)
  else
    retag(r)
    r.tag = redis.call('HGET', key('req:' .. r.id), 'tag')
  end
  if not_before > now then redis.call('ZADD', key('backoff'), not_before, r.id) else enter(r, user) end
end

-- No longer one of its user's queued ones: served (their service grows by it) or given up (it never was).
local function unqueue(r, served)
  local last = redis.call('ZREVRANGE', own(r), 0, 0)[1] == r.id
  if redis.call('ZREM', own(r), r.id) == 0 then return end
  add(account(r), 'waiting', -tonumber(r.cost))
  if not served then add(account(r), 'F', -tonumber(r.cost)) end
  if served or last then list_user(r) else retag(r) end
end
