-- SQL says the request is queued again: gives its lease back and returns it to its old place.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempts begun so far (0 or more)   ARGV[5]  not_before in ms
-- ARGV[6]  tokens really used, input   ARGV[7]  output ('' for either: as estimated)
-- ARGV[8]  the event to record, or ''
-- Returns 1, or 0 if a later attempt was seen, the request ended or is not known.
local id, not_before = ARGV[3], tonumber(ARGV[5])
local r = redis.call('HMGET', key('req:' .. id), 'attempt', 'closed', 'tier', 'member', 'tag', 'cost', 'user', 'input', 'output')
if not r[1] or r[2] or tonumber(r[1]) > tonumber(ARGV[4]) then return 0 end
local leased = redis.call('ZREM', key('leases'), id)
if leased == 0 then return 0 end
local _, levels = load_bucket()
local more = needs((tonumber(ARGV[6]) or tonumber(r[8])) - r[8], (tonumber(ARGV[7]) or tonumber(r[9])) - r[9])
for dim, level in pairs(levels) do if dim ~= 'requests' then levels[dim] = level - more[dim] end end
save_levels(levels)
redis.call('HINCRBY', key('user:' .. r[3] .. ':' .. r[7]), 'queued', 1)
if not_before > now then
  redis.call('ZADD', key('backoff'), not_before, id)
else
  enter(id, r[3], r[5], r[4], r[6])
end
redis.call('HDEL', key('req:' .. id), 'open')
if ARGV[8] ~= '' then record(id, ARGV[8]) end
redis.call('PUBLISH', base .. 'wake', 1)
return 1
