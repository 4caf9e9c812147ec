-- SQL says the request has ended: frees all it held here, records the final event and closes the log.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  the final event   ARGV[5]  how long the log is kept, in ms
-- ARGV[6]  tokens really used by its last attempt, input   ARGV[7]  output ('' for either: as estimated)
-- ARGV[8]  the number below the final event's where the log is gone   ARGV[9]  ms the attempt took, or ''
-- ARGV[10]  1 if it was served: then it teaches what its kind is like
-- Returns the final event's number. Repeatable: a closed log publishes its final event again.
local leased = redis.call('ZREM', key('leases'), ARGV[3]) == 1
local r = read(ARGV[3])
local req, input, output, took_ms = key('req:' .. r.id), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
if r.closed then
  redis.call('PUBLISH', base .. 'events', r.seq .. ' ' .. r.id .. ' ' .. ARGV[4])
  return tonumber(r.seq)
end

-- Of the first answers the mean, then weighted 0.05: some twenty decide, so that one long answer does not. What was
-- assumed before the first counts as three: after one of 25 tokens fifty of 1,000 went at once.
local function learn(bucket, name, value, assumed)
  local n = math.min(20, (tonumber(bucket['n:' .. name]) or (assumed and 3 or 0)) + 1)
  local mean = tonumber(bucket[name]) or assumed or value
  redis.call('HSET', key('bucket'), name, precise(mean + (value - mean) / n), 'n:' .. name, n)
end

-- Waits are told by the mean of some five hundred: what they add up is what many answers need, not the next.
local function learn_output(bucket, name, value)
  learn(bucket, name, value, tonumber(bucket.mean_output) or tonumber(r.output))
  local n = math.min(500, (tonumber(bucket['n:long:' .. name]) or 0) + 1)
  local mean = tonumber(bucket['long:' .. name]) or value
  redis.call('HSET', key('bucket'), 'long:' .. name, precise(mean + (value - mean) / n), 'n:long:' .. name, n)
end

land(r)
if r.member then
  leave(r)
  unqueue(r, false)
  local bucket, levels, limits = load_bucket()
  answered(bucket, r)
  if leased then
    if input and output then settle(bucket, levels, r, input, output) end
    -- One that never began here was not sent: it costs its user and tier nothing.
    local cost = (input or 0) + (output or 0) > 0 and cost_of(bucket, limits, input or 0, output or 0, took_ms) or not r.open and 0
    if cost then correct(r, cost - r.cost) end
  end
  save(bucket, levels)
  if ARGV[10] == '1' and output then
    succeeded(bucket)
    repay(bucket, limits, r)
    learn_output(bucket, 'mean_output', output)
    if r.kind then learn_output(bucket, 'mean_output:' .. r.kind, output) end
    if took_ms then learn(bucket, 'mean_ms', took_ms) end
    if r.mark and tonumber(r.input) > 0 then learn(bucket, 'input_ratio', math.min(5, math.max(0.2, input / r.input))) end
  end
else
  redis.call('HSET', req, 'seq', ARGV[8])
end
redis.call('HSET', req, 'closed', 1)
redis.call('HDEL', req, 'open', 'member', 'tag', 'cost', 'input', 'output', 'rank', 'kind', 'max', 'mark', 'asked', 'again',
  'work')
local seq = record(r.id, ARGV[4])
redis.call('PEXPIRE', req, ARGV[5])
redis.call('PEXPIRE', key('log:' .. r.id), ARGV[5])
redis.call('PUBLISH', base .. 'wake', 1)
return seq
