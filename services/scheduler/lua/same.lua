-- Equal requests; follows order.lua in every script. It has no KEYS or ARGV of its own.
-- r.work is what equal requests have in common (absent: this one has no equals). "flights" names the request of each
-- work that runs, or ran last; one that is popped while another one runs is parked: it keeps its tag, its cost and its
-- place among its user's own, and takes no lease and nothing from the bucket.

-- The equal request that runs now, never r itself.
local function ahead(r)
  local id = r.work and redis.call('HGET', key('flights'), r.work)
  return id and id ~= r.id and redis.call('ZSCORE', key('leases'), id) and id
end

local function fly(r)
  if r.work and not ahead(r) then redis.call('HSET', key('flights'), r.work, r.id) end
end

-- True if r has to wait for an equal one's end.
local function park(r)
  if not ahead(r) then return false end
  leave(r)
  list_user(r)
  redis.call('ZADD', key('behind:' .. r.work), now, r.id)
  return true
end

-- Puts what is parked back in line at its tags: the one that goes first runs, and the others park behind it.
-- 500 at a time bounds the script; the sweep (unpark.lua) comes back for more.
local function unpark(work)
  local behind = redis.call('ZRANGE', key('behind:' .. work), 0, 499)
  for _, id in ipairs(behind) do
    redis.call('ZREM', key('behind:' .. work), id)
    local r = read(id)
    -- The release before this one does not see what is parked, and may have placed it and taken it meanwhile.
    if r.member and not r.closed and not held(r) then enter(r) end
  end
  if #behind < 500 then redis.call('HDEL', key('flights'), work) end
  return #behind
end

-- r runs no longer: nothing waits behind it.
local function land(r)
  if r.work and redis.call('HGET', key('flights'), r.work) == r.id then unpark(r.work) end
end
