"""What is changed in Redis under a lease: all of it, and only while the lease is the caller's. Redis runs a script as a whole
(https://redis.io/docs/latest/develop/programmability/eval-intro/, "Atomicity").

Each may run when Redis is out of memory (``allow-oom``, from Redis 7.0 on): noting what was delivered is what frees memory.
"""

from __future__ import annotations

__all__ = ["APPEND", "CLAIM", "COMMIT", "FINISH", "FORGET", "LATEST", "LOST", "RELEASE", "RENEW", "SIGN"]

LOST = "LOST"
"""What a script answers to somebody whose lease is not his any more."""

COMMIT = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'LOST' end
local at = 2
while ARGV[at] do
  local what, key = ARGV[at], KEYS[tonumber(ARGV[at + 1])]
  if what == 'HSET' then redis.call('HSET', key, ARGV[at + 2], ARGV[at + 3]); at = at + 4
  elseif what == 'HDEL' then redis.call('HDEL', key, ARGV[at + 2]); at = at + 3
  elseif what == 'RPUSH' then
    if redis.call('LLEN', key) < 1000 then redis.call('RPUSH', key, ARGV[at + 2]) end
    at = at + 3
  elseif what == 'XTRIM' then redis.call('XTRIM', key, 'MINID', ARGV[at + 2]); at = at + 3
  else return redis.error_reply('unknown ' .. what) end
end
return 'OK'
"""
"""KEYS: the lease, then those that ARGV names by their numbers. ARGV: the owner, then what is to be done."""

CLAIM = """#!lua flags=allow-oom
return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
"""

SIGN = """#!lua flags=allow-oom
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, ARGV[3])
return redis.call('ZCARD', KEYS[1])
"""
"""A host's sign of life. KEYS: the hosts. ARGV: its name, the time, the time before which others count as gone."""

RENEW = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 'LOST' end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 'OK'
"""

RELEASE = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 'OK'
"""

FINISH = """#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  if redis.call('HEXISTS', KEYS[2], 'ended') == 1 then return 'OK' end
  return 'LOST'
end
redis.call('HSET', KEYS[2], 'ended', ARGV[3])
redis.call('ZREM', KEYS[3], ARGV[2])
if ARGV[4] == '' then
  redis.call('DEL', KEYS[5])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
  for at = 6, #KEYS do redis.call('EXPIRE', KEYS[at], ARGV[6]) end
else redis.call('ZADD', KEYS[4], ARGV[4], ARGV[2]) end
redis.call('DEL', KEYS[1])
return 'OK'
"""
"""The end of a session, at once: half of it would be a session that nobody takes and that never goes. KEYS: the lease, where the
trackers stand, the sessions, the unfinished ones, the stream, the rest. ARGV: the owner, the session, how it ended, since when it
is unfinished (empty: it is not), how long the second key is kept, and the rest. Who asks again, since the answer was lost, hears
the same."""

FORGET = """#!lua flags=allow-oom
if redis.call('HEXISTS', KEYS[1], 'ended') == 1 then return redis.call('ZREM', KEYS[2], ARGV[1]) end
return 0
"""
"""Take a session that has ended out of the sessions: its program's side may have announced it again just then. KEYS: where its
trackers stand, the sessions. ARGV: the session."""

LATEST = """#!lua flags=no-writes
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err and not string.find(info.err, 'no such key') then return info end
for at = 1, #info, 2 do if info[at] == 'last-generated-id' then return info[at + 1] end end
return '0-0'
"""
"""The number of the latest entry of the stream, without the entries that XINFO shows beside it. KEYS: the stream."""

APPEND = """#!lua
local last, info = '0-0', redis.pcall('XINFO', 'STREAM', KEYS[1])
if info.err and not string.find(info.err, 'no such key') then return info end
for at = 1, #info, 2 do if info[at] == 'last-generated-id' then last = info[at + 1] end end
if last ~= ARGV[1] then return last end
redis.call('XADD', KEYS[1], ARGV[2], unpack(ARGV, 3))
return 'OK'
"""
"""KEYS: the stream. ARGV: the number of its latest entry, as the caller knows it, the number of the new one, and its fields. If
the stream has another one, since Redis has lost something, or somebody else appends, it answers that, and appends nothing."""
