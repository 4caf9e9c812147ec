-- The first half of every script of this folder: the pool's epoch, clock, names, log and buckets.
-- KEYS[1]  the pool's meta hash, "hg:{pool}:meta"; every other key is named from it and so shares its slot
-- ARGV[1]  the epoch the caller knows; another one is refused with STALEEPOCH and nothing is changed
-- ARGV[2]  now in ms since 1970 (virtual time), or '' for the server's clock
local meta = KEYS[1]
local base = string.sub(meta, 1, -5)
if redis.call('HGET', meta, 'epoch') ~= ARGV[1] then
  return redis.error_reply('STALEEPOCH the order was rebuilt')
end
local time = redis.call('TIME')
local now = tonumber(ARGV[2]) or time[1] * 1000 + math.floor(time[2] / 1000)

local function key(name) return base .. name end
-- Concatenation keeps 14 digits of a number; a tag needs all 17.
local function precise(number) return string.format('%.17g', number) end
-- At maxmemory a script may still write if its first write is one that frees memory.
local function free_first() redis.call('ZREM', key('backoff'), '') end

local function record(id, payload)
  local seq = redis.call('HINCRBY', key('req:' .. id), 'seq', 1)
  -- 20,000 is ten merged deltas a second for longer than an attempt may last, three times over.
  redis.call('XADD', key('log:' .. id), 'MAXLEN', '~', 20000, seq .. '-1', 'e', payload)
  redis.call('PUBLISH', base .. 'events', seq .. ' ' .. id .. ' ' .. payload)
  return seq
end

local DIMENSIONS = {'requests', 'tokens', 'input_tokens', 'output_tokens'}
local function needs(input, output)
  return {requests = 1, tokens = input + output, input_tokens = input, output_tokens = output}
end

-- A little slower than the limit, so that jitter on the way cannot squeeze two calls into one refill: where a
-- bucket holds one call (120 a minute and fewer) the margin is all there is, 15 ms at 60 a minute.
local function pace(limit) return limit <= 120 and 0.985 or 0.995 end

-- What is in force: the smaller of an override and what the provider's headers say (else its plan).
local function load_bucket()
  local flat, bucket = redis.call('HGETALL', key('bucket')), {}
  for i = 1, #flat, 2 do bucket[flat[i]] = flat[i + 1] end
  local elapsed = math.max(0, now - (tonumber(bucket.at) or now))
  local levels, limits, capacity = {}, {}, {}
  for _, dim in ipairs(DIMENSIONS) do
    local override, named = tonumber(bucket['override:' .. dim]), tonumber(bucket['header:' .. dim] or bucket['plan:' .. dim])
    local limit = override and named and math.min(override, named) or override or named
    if limit then
      limits[dim] = limit
      -- Half a second's worth: a one-second burst against a one-second provider bucket drew 5% 429s, half none.
      capacity[dim] = math.max(1, limit / 120)
      if dim ~= 'requests' then
        capacity[dim] = math.min(limit, math.max(limit / 60, 2 * (tonumber(bucket.largest) or 0)))
      end
      local refilled = elapsed * limit * pace(limit) / 60000
      levels[dim] = math.min(capacity[dim], (tonumber(bucket['level:' .. dim]) or 0) + refilled)
    end
  end
  return bucket, levels, limits, capacity
end

local function save_levels(levels)
  for dim, level in pairs(levels) do redis.call('HSET', key('bucket'), 'level:' .. dim, precise(level)) end
  redis.call('HSET', key('bucket'), 'at', now)
end

-- Takes what was used beyond the estimate, or gives back what was not; the requests themselves stay taken.
-- Each further turn (`turns` of them) took an estimate of its own.
local function settle(levels, r, input, output)
  local turns = 1 + (tonumber(r.turns) or 0)
  local more = needs(input - turns * r.input, output - turns * r.output)
  for dim, level in pairs(levels) do if dim ~= 'requests' then levels[dim] = level - more[dim] end end
  save_levels(levels)
end

-- A request's share of the pool in provider-seconds: its need of the dimension it strains most.
local function cost_of(limits, input, output)
  local cost, need = 0, needs(input, output)
  for dim, limit in pairs(limits) do cost = math.max(cost, need[dim] * 60 / limit) end
  -- Without any limit everything costs the same, and the order is by count.
  return cost > 0 and cost or 1
end
