-- Why and until when nothing goes; follows retries.lua in every script. No KEYS or ARGV of its own.
-- Each reason for a pause has its own end, so that one that is over ends no other; the latest is the one in force.
local function choose_pause(bucket)
  local until_ms, reason = 0, ''
  for name, ends in pairs(bucket) do
    if string.sub(name, 1, 6) == 'pause:' and tonumber(ends) > until_ms then
      until_ms, reason = tonumber(ends), string.sub(name, 7)
    end
  end
  bucket.paused_until, bucket.paused_why = until_ms, reason
  redis.call('HSET', key('bucket'), 'paused_until', until_ms, 'paused_why', reason)
end

local function pause_for(bucket, length_ms, why)
  bucket['pause:' .. why] = math.max(now + length_ms, tonumber(bucket['pause:' .. why]) or 0)
  redis.call('HSET', key('bucket'), 'pause:' .. why, bucket['pause:' .. why])
  choose_pause(bucket)
end

local function end_pause(bucket, why)
  bucket['pause:' .. why] = nil
  redis.call('HDEL', key('bucket'), 'pause:' .. why)
  choose_pause(bucket)
end
