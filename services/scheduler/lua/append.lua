-- Records events of a running attempt. May be refused at maxmemory.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempt   ARGV[5..]  the events
-- Returns the last event's number, or 0 if the attempt is not the current one or the request ended.
local id, seq = ARGV[3], 0
-- `open` is the attempt that may write: set by start, gone with requeue and finish.
if redis.call('HGET', key('req:' .. id), 'open') ~= ARGV[4] then return 0 end
for i = 5, #ARGV do seq = record(id, ARGV[i]) end
return seq
