-- SQL says the request is queued again: gives its lease back and returns it to its old place.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempts begun so far (0 or more)   ARGV[5]  not_before in ms
-- ARGV[6]  tokens really used, input   ARGV[7]  output ('' for either: not known, and none is charged to its user)
-- ARGV[8]  the event to record, or ''   ARGV[9]  1 if the provider failed: a retry that needs the budget's leave
-- Returns 1, or 0 if a later attempt was seen, the request ended or is not known.
local r = read(ARGV[3])
if not r.member or r.closed or tonumber(r.attempt) > tonumber(ARGV[4]) then return 0 end
if redis.call('ZREM', key('leases'), r.id) == 0 then return 0 end
land(r)
local bucket, levels, limits = load_bucket()
local input, output = tonumber(ARGV[6]), tonumber(ARGV[7])
answered(bucket, r)
if input and output then
  settle(bucket, levels, r, input, output)
  -- It will be charged in full when it is served; what the lost attempt cost comes on top.
  if input + output > 0 then correct(r, cost_of(bucket, limits, input, output, 0)) end
end
save(bucket, levels)
-- Its start may never have come here; popped with an old number it could not begin again.
redis.call('HSET', key('req:' .. r.id), 'attempt', ARGV[4])
add(meta, 'T:' .. r.tier, -tonumber(r.cost) / math.max(1, field(meta, 'share:' .. r.tier)))
queue(r, tonumber(ARGV[5]), false)
redis.call('HDEL', key('req:' .. r.id), 'open', 'mark', 'again')
if ARGV[9] == '1' then redis.call('HSET', key('req:' .. r.id), 'again', 1) end
if ARGV[8] ~= '' then record(r.id, ARGV[8]) end
redis.call('PUBLISH', base .. 'wake', 1)
return 1
