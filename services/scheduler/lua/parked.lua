-- Who is parked behind a request, at most 500. Changes nothing.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id
-- Returns ids; none if it is not that request that runs.
local r = read(ARGV[3])
if not r.work or redis.call('HGET', key('flights'), r.work) ~= r.id then return {} end
return redis.call('ZRANGE', key('behind:' .. r.work), 0, 499)
