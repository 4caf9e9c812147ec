-- SQL says the request has ended: frees all it held here, records the final event and closes the log.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  the final event   ARGV[5]  how long the log is kept, in ms
-- ARGV[6]  tokens really used by its last attempt, input   ARGV[7]  output ('' for either: as estimated)
-- ARGV[8]  the number below every event number of this epoch   ARGV[9]  ms the attempt took, or ''
-- Returns the final event's number. Repeatable: a closed log publishes its final event again.
local id, req = ARGV[3], key('req:' .. ARGV[3])
local leased = redis.call('ZREM', key('leases'), id)
local waiting = redis.call('ZREM', key('backoff'), id)
local r = redis.call('HMGET', req, 'closed', 'tier', 'member', 'cost', 'user', 'input', 'output', 'seq')
if r[1] then
  redis.call('PUBLISH', base .. 'events', r[8] .. ' ' .. id .. ' ' .. ARGV[4])
  return tonumber(r[8])
end
if r[3] then
  local in_line = redis.call('ZREM', key('line:' .. r[2]), r[3])
  if in_line == 1 then redis.call('HINCRBYFLOAT', meta, 'sum:' .. r[2], precise(-tonumber(r[4]))) end
  if in_line + waiting > 0 then redis.call('HINCRBY', key('user:' .. r[2] .. ':' .. r[5]), 'queued', -1) end
  local input, output = tonumber(ARGV[6]), tonumber(ARGV[7])
  if leased == 1 then
    local bucket, levels = load_bucket()
    local more = needs((input or tonumber(r[6])) - r[6], (output or tonumber(r[7])) - r[7])
    for dim, level in pairs(levels) do if dim ~= 'requests' then levels[dim] = level - more[dim] end end
    save_levels(levels)
    local took = tonumber(ARGV[9])
    -- Weight 0.1: the last ten or so answers decide.
    if output then redis.call('HSET', key('bucket'), 'mean_output', precise(0.9 * (tonumber(bucket.mean_output) or output) + 0.1 * output)) end
    if took then redis.call('HSET', key('bucket'), 'mean_ms', precise(0.9 * (tonumber(bucket.mean_ms) or took) + 0.1 * took)) end
    if input and output then
      redis.call('HSET', key('bucket'), 'largest', precise(math.max(0.99 * (tonumber(bucket.largest) or 0), input + output)))
    end
  end
else
  redis.call('HSET', req, 'seq', ARGV[8])
end
redis.call('HSET', req, 'closed', 1)
redis.call('HDEL', req, 'open', 'member', 'tag', 'cost', 'input', 'output')
local seq = record(id, ARGV[4])
redis.call('PEXPIRE', req, ARGV[5])
redis.call('PEXPIRE', key('log:' .. id), ARGV[5])
redis.call('PUBLISH', base .. 'wake', 1)
return seq
