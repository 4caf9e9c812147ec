-- SQL says the request has ended: frees all it held here, records the final event and closes the log.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  the final event   ARGV[5]  how long the log is kept, in ms
-- ARGV[6]  tokens really used by its last attempt, input   ARGV[7]  output ('' for either: as estimated)
-- ARGV[8]  the number below the final event's where the log is gone   ARGV[9]  ms the attempt took, or ''
-- Returns the final event's number. Repeatable: a closed log publishes its final event again.
local leased = redis.call('ZREM', key('leases'), ARGV[3]) == 1
local r = read(ARGV[3])
local req, input, output, took = key('req:' .. r.id), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
if r.closed then
  redis.call('PUBLISH', base .. 'events', r.seq .. ' ' .. r.id .. ' ' .. ARGV[4])
  return tonumber(r.seq)
end
if r.member then
  leave(r)
  unqueue(r, false)
  if leased and input and output then
    local bucket, levels, limits = load_bucket()
    settle(levels, r, input, output)
    correct(r, cost_of(limits, input, output) - r.cost)
    learn(bucket, input, output, took)
  end
else
  redis.call('HSET', req, 'seq', ARGV[8])
end
redis.call('HSET', req, 'closed', 1)
redis.call('HDEL', req, 'open', 'member', 'tag', 'cost', 'input', 'output', 'rank', 'turns')
local seq = record(r.id, ARGV[4])
redis.call('PEXPIRE', req, ARGV[5])
redis.call('PEXPIRE', key('log:' .. r.id), ARGV[5])
redis.call('PUBLISH', base .. 'wake', 1)
return seq
