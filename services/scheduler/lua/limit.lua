-- Sets fields of the pool's bucket: plan, override and header limits, pauses, and what a further turn took.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  'set': ARGV[4..] field and value pairs ('' deletes the field)
--          'pause': ARGV[4] for how many ms from now, ARGV[5] why; a later end already set is kept; 0 ends the pause
--          'spend': ARGV[4] input tokens, ARGV[5] output tokens, taken with one request, into debt if need be, for
--          the request ARGV[6], whose end settles it
-- Returns 1.
free_first()
if ARGV[3] == 'set' then
  for i = 4, #ARGV, 2 do
    if ARGV[i + 1] == '' then redis.call('HDEL', key('bucket'), ARGV[i])
    else redis.call('HSET', key('bucket'), ARGV[i], ARGV[i + 1]) end
  end
elseif ARGV[3] == 'pause' then
  -- Counted from this server's now: the callers' clocks may differ.
  local length_ms = tonumber(ARGV[4])
  if length_ms == 0 then
    redis.call('HDEL', key('bucket'), 'paused_until', 'paused_why')
  else
    redis.call('HINCRBY', key('bucket'), 'pauses', 1)
    if now + length_ms > (tonumber(redis.call('HGET', key('bucket'), 'paused_until')) or 0) then
      redis.call('HSET', key('bucket'), 'paused_until', now + length_ms, 'paused_why', ARGV[5])
    end
  end
else
  local _, levels = load_bucket()
  local need = needs(tonumber(ARGV[4]), tonumber(ARGV[5]))
  for dim, level in pairs(levels) do levels[dim] = level - need[dim] end
  save_levels(levels)
  if redis.call('HEXISTS', key('req:' .. ARGV[6]), 'open') == 1 then
    redis.call('HINCRBY', key('req:' .. ARGV[6]), 'turns', 1)
  end
end
redis.call('PUBLISH', base .. 'wake', 1)
return 1
