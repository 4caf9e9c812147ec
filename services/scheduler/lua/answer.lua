-- How the provider answered a call: with an answer that begins, or with an error. Applies what its headers say.
-- KEYS[1], ARGV[1..2]  see pool.lua
-- ARGV[3]  id   ARGV[4]  attempt
-- ARGV[5]  'begun', 'refused' (429), 'ramp' (429, too fast a rise), 'failed' (5xx, connection, cut) or 'other'
-- ARGV[6]  for a 429: how long the pool rests, in ms   ARGV[7..]  three for each limit named: dimension, limit, left
-- Returns {429s of this request with others served in between, its 429s in all, 1 if the pool as a whole fails,
-- then the limits that are new: dimension, limit}.
free_first()
local r = read(ARGV[3])
local bucket, levels, limits, capacity = load_bucket()
local news, broken = {}, 0
if r.open ~= ARGV[4] then return {0, 0, 0} end

-- The true level lies between two ends. What was sent since this call, and what was sent before it and not answered
-- by then, may be counted in what is left, or not yet; so may what was refilled since. Only a level outside moves, to
-- the nearer end. (Subtracting all that is in flight starved the pool to 16% of its limit, ignoring it gave 49% 429s;
-- subtracting only what is unanswered now took answers that overtook each other twice: 4.6%.) Output is counted as it
-- is made, long after its call was answered, so where it counts a level is only lowered, when nearly all is gone.
local function correct_level(mark, dim, limit, left)
  local rounding = dim == 'requests' and 1 or 500
  local since, refilled = bucket['sent:' .. dim] - mark[dim], math.max(0, now - mark.at) * limit / 60000
  local high, low = left + rounding + math.max(0, refilled - since), left - rounding - since - mark['open:' .. dim]
  -- Half of the half second that takes up the jitter (see limits.lua) is not ours to spend.
  low = low - limit / 240
  -- After a ramp limit the provider has room and yet wants less.
  if bucket.part < 1 and bucket.ramp == '1' then low = -math.huge end
  if dim ~= 'output_tokens' and dim ~= 'tokens' then
    levels[dim] = math.max(math.min(levels[dim], high), math.min(low, capacity[dim]))
  elseif left < limit / 10 then
    levels[dim] = math.min(levels[dim], high)
  end
end

local named = {}
for i = 7, #ARGV, 3 do named[ARGV[i]] = {tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])} end
-- It shows the tightest of all token limits: which one is clear only where there are no others, and one is declared.
if named.input_tokens or named.output_tokens or not limits.tokens then named.tokens = nil end
for dim, pair in pairs(named) do
  if tonumber(bucket['header:' .. dim]) ~= pair[1] then
    redis.call('HSET', key('bucket'), 'header:' .. dim, pair[1])
    table.insert(news, dim)
    table.insert(news, pair[1])
  end
end
if #news > 0 then bucket, levels, limits, capacity = load_bucket() end

answered(bucket, r)
local mark = r.mark and cjson.decode(r.mark)
for dim, pair in pairs(mark and named or {}) do if levels[dim] then correct_level(mark, dim, pair[1], pair[2]) end end
-- The provider does not count what it refuses.
local refusal = ARGV[5] == 'refused' or ARGV[5] == 'ramp'
if refusal and levels.requests then levels.requests = math.min(capacity.requests, levels.requests + 1) end
if mark then save(bucket, levels) end

if ARGV[5] == 'begun' then
  if mark and named.input_tokens then
    mark.told = true
    redis.call('HSET', key('req:' .. r.id), 'mark', cjson.encode(mark))
  end
  revived(bucket)
  redis.call('HINCRBY', key('bucket'), 'passed', 1)
  if not bucket.breaks_off then repay(bucket, limits, r) end
elseif ARGV[5] == 'failed' then
  broken = failed(bucket, r) and 1 or 0
elseif ARGV[5] ~= 'other' then
  revived(bucket)
  refused(bucket, r, tonumber(ARGV[6]), ARGV[5] == 'ramp')
end
redis.call('PUBLISH', base .. 'wake', 1)
return {tonumber(r.refusals) or 0, tonumber(r.denied) or 0, broken, unpack(news)}
