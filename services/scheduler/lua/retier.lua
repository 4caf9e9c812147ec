-- A user has another tier: what they have queued goes there, at the rank it has for life; what runs comes back there.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  the new tier   ARGV[4]  its share   ARGV[5..]  ids, in order of acceptance
-- Returns the number that moved. Repeatable.
free_first()
redis.call('HSET', meta, 'share:' .. ARGV[3], ARGV[4])
redis.call('SADD', key('tiers'), ARGV[3])
local moved = 0
for i = 5, #ARGV do
  local r = read(ARGV[i])
  if r.member and not r.closed and r.tier ~= ARGV[3] then
    local queued, not_before = redis.call('ZSCORE', own(r), r.id), redis.call('ZSCORE', key('backoff'), r.id)
    if queued then
      leave(r)
      unqueue(r, false)
    end
    if not queued then correct(r, -r.cost) end
    r.tier = ARGV[3]
    redis.call('HSET', key('req:' .. r.id), 'tier', r.tier)
    if queued then
      queue(r, tonumber(not_before) or 0, true)
    else
      -- It runs: it is paid where it will come back to, so that nobody gains or owes what another tier served.
      redis.call('HSET', account(r), 'F', precise(lifted_F(r, user_of(r))))
      correct(r, r.cost)
    end
    moved = moved + 1
  end
end
if moved > 0 then redis.call('PUBLISH', base .. 'wake', moved) end
return moved
