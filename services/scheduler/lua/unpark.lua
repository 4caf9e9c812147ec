-- Frees what is parked behind requests that do not run (whoever ended them was of a release that knows no parking, or
-- there were too many for one script).
-- KEYS[1], ARGV[1..2]  see pool.lua
-- Returns the number freed.
free_first()
local freed, flights = 0, redis.call('HGETALL', key('flights'))
for i = 1, #flights, 2 do
  if freed < 2000 and not redis.call('ZSCORE', key('leases'), flights[i + 1]) then freed = freed + unpark(flights[i]) end
end
if freed > 0 then redis.call('PUBLISH', base .. 'wake', freed) end
return freed
