-- Which leases have run out, and which of the ids named are not here at all. Changes nothing.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  'leases', or 'missing' followed by ids in ARGV[4..]
-- Returns ids.
if ARGV[3] == 'leases' then return redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, 500) end
local missing = {}
for i = 4, #ARGV do
  local r = redis.call('HMGET', key('req:' .. ARGV[i]), 'member', 'tier')
  if not (r[1] and held(ARGV[i], r[2], r[1])) then table.insert(missing, ARGV[i]) end
end
return missing
