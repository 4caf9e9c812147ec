-- An attempt has begun in SQL: opens the log for it and makes sure of its lease, wherever the request stood.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempt   ARGV[5]  lease in ms   ARGV[6]  the event to record
-- Returns the event's number, or 0 if a later attempt was seen, the request ended or has no log.
local id, attempt = ARGV[3], tonumber(ARGV[4])
local r = redis.call('HMGET', key('req:' .. id), 'attempt', 'closed', 'tier', 'member', 'cost')
if not r[1] or r[2] or tonumber(r[1]) >= attempt then return 0 end
redis.call('ZREM', key('backoff'), id)
if redis.call('ZREM', key('line:' .. r[3]), r[4]) == 1 then
  redis.call('HINCRBYFLOAT', meta, 'sum:' .. r[3], precise(-tonumber(r[5])))
end
redis.call('ZADD', key('leases'), now + tonumber(ARGV[5]), id)
redis.call('HSET', key('req:' .. id), 'attempt', attempt, 'open', attempt)
return record(id, ARGV[6])
