-- Prolongs the leases of running attempts.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  lease in ms   ARGV[4..]  two for each attempt: id, attempt
-- Returns the ids whose attempt is not (or no longer) the open one.
free_first()
local lost = {}
for i = 4, #ARGV, 2 do
  -- `open` is gone with requeue and finish, so while it is this attempt's the lease is too.
  if redis.call('HGET', key('req:' .. ARGV[i]), 'open') == ARGV[i + 1] then
    redis.call('ZADD', key('leases'), now + tonumber(ARGV[3]), ARGV[i])
  else
    table.insert(lost, ARGV[i])
  end
end
return lost
