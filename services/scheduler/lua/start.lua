-- An attempt has begun in SQL: opens the log for it and makes sure of its lease, wherever the request stood.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempt   ARGV[5]  lease in ms   ARGV[6]  the event to record
-- Returns the event's number, or 0 if a later attempt was seen, the request ended or has no log.
local r, attempt = read(ARGV[3]), tonumber(ARGV[4])
if not r.attempt or r.closed or tonumber(r.attempt) >= attempt then return 0 end
redis.call('ZREM', key('backoff'), r.id)
if r.member then
  leave(r)
  unqueue(r, true)
end
redis.call('ZADD', key('leases'), now + tonumber(ARGV[5]), r.id)
fly(r)
redis.call('HSET', key('req:' .. r.id), 'attempt', attempt, 'open', attempt)
return record(r.id, ARGV[6])
