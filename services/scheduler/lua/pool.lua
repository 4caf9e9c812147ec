-- The first part of every script of this folder: the pool's epoch, clock, names and log.
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
