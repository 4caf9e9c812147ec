-- After a rebuild: gives running requests a lease and a log again.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  lease in ms   ARGV[4]  the number below every event number of this epoch
-- ARGV[5..]  ten for each: id, tier, share, user, attempt, estimated input tokens, estimated output tokens, kind,
--            most output tokens, what it has in common with its equals ('': it has none)
-- Returns the number adopted.
free_first()
local adopted = 0
for i = 5, #ARGV, 10 do
  local req = key('req:' .. ARGV[i])
  if redis.call('EXISTS', req) == 0 then
    local sequence = redis.call('HINCRBY', meta, 'sequence', 1)
    local member = string.format('%012d', sequence) .. ARGV[i]
    local V = redis.call('HGET', meta, 'V:' .. ARGV[i + 1]) or '0'
    redis.call('SADD', key('tiers'), ARGV[i + 1])
    redis.call('HSET', meta, 'share:' .. ARGV[i + 1], ARGV[i + 2])
    -- Cost 0: it was paid for before, and should it come back it goes first.
    redis.call('HSET', req, 'tier', ARGV[i + 1], 'user', ARGV[i + 3], 'member', member, 'tag', V, 'cost', 0, 'rank', precise(sequence),
      'attempt', ARGV[i + 4], 'open', ARGV[i + 4], 'input', ARGV[i + 5], 'output', ARGV[i + 6],
      'kind', ARGV[i + 7], 'max', ARGV[i + 8], 'seq', ARGV[4])
    redis.call('ZADD', key('leases'), now + tonumber(ARGV[3]), ARGV[i])
    if ARGV[i + 9] ~= '' then
      redis.call('HSET', req, 'work', ARGV[i + 9])
      fly({id = ARGV[i], work = ARGV[i + 9]})
    end
    adopted = adopted + 1
  end
end
return adopted
