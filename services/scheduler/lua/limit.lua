-- Sets fields of the pool's bucket, pauses, and takes what an answer uses beyond what its dispatch took.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  'set': ARGV[4..] field and value pairs ('' deletes the field)
--          'pause': ARGV[4] for how many ms from now, ARGV[5] why; a later end already set is kept; 0 ends it
--          'turn': the request ARGV[4] makes another call
--          'grow': the answer to the request ARGV[4] has used ARGV[5] output tokens so far, more than it took
-- Returns 1.
free_first()
if ARGV[3] == 'set' then
  for i = 4, #ARGV, 2 do
    -- What the operator has just written is newer than any header.
    local dim = string.match(ARGV[i], '^plan:(.+)')
    if dim and (redis.call('HGET', key('bucket'), ARGV[i]) or '') ~= ARGV[i + 1] then
      redis.call('HDEL', key('bucket'), 'header:' .. dim)
    end
    if ARGV[i + 1] == '' then redis.call('HDEL', key('bucket'), ARGV[i])
    else redis.call('HSET', key('bucket'), ARGV[i], ARGV[i + 1]) end
  end
elseif ARGV[3] == 'pause' then
  -- Counted from this server's now: the callers' clocks may differ.
  if ARGV[4] == '0' then end_pause(load_bucket(), ARGV[5])
  else pause_for(load_bucket(), tonumber(ARGV[4]), ARGV[5]) end
else
  local bucket, levels, limits = load_bucket()
  local r = read(ARGV[4])
  if not (r.open and r.mark) then return 1 end
  if ARGV[3] == 'turn' then
    take(bucket, levels, r, expected(bucket, r))
  else
    local mark = cjson.decode(r.mark)
    settle(bucket, levels, r, mark.input, math.max(mark.output, tonumber(ARGV[5])))
    mark.output = math.max(mark.output, tonumber(ARGV[5]))
    -- Its user pays as it grows, not only when it ends: a long answer in flight must not look like a short one.
    local cost = math.max(r.cost, cost_of(bucket, limits, mark.input, mark.output, 0))
    correct(r, cost - r.cost)
    redis.call('HSET', key('req:' .. r.id), 'mark', cjson.encode(mark), 'cost', precise(cost))
  end
  save(bucket, levels)
end
redis.call('PUBLISH', base .. 'wake', 1)
return 1
