-- Which leases have run out, and which of the ids named are not here at all. Changes nothing.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  'leases', or 'missing' followed by ids in ARGV[4..]
-- Returns ids.
if ARGV[3] == 'leases' then return redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, 500) end
local missing = {}
for i = 4, #ARGV do
  local r = read(ARGV[i])
  if not (r.member and held(r)) then table.insert(missing, ARGV[i]) end
end
return missing
