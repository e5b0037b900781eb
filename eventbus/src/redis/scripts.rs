//! What runs inside the server, because it must be one step there or because only a little of what it looks at is wanted.
//!
//! The scripts are sent whole each time: they are short, and a server that was restarted or replaced has forgotten them.

use redis::{Cmd, cmd};

/// Claims the streams of a topic: `KEYS` the registry; `ARGV` topic, partitions, the streams. Gives whose the first stream is that
/// somebody has, which is this topic's own unless another one claimed it.
const CLAIM: &str = r"
for i = 3, #ARGV do
  local owner = redis.call('HGET', KEYS[1], ARGV[i])
  if owner then return owner end
end
for i = 3, #ARGV do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. (i - 3))
end
return redis.call('HGET', KEYS[1], ARGV[3])
";

/// Looks at a stream: `KEYS` the stream; `ARGV` how far to count, then ids. Gives length, last id, entries ever added and first id,
/// then for each id the first entry there or later, and how many there are, counted so far. No entry leaves the server.
const LOOK: &str = r"
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
local found = {0, '0-0', 0, false}
if info.err then
  if not string.find(info.err, 'no such key') then return redis.error_reply(info.err) end
else
  found[3] = false
  for i = 1, #info, 2 do
    if info[i] == 'length' then found[1] = info[i + 1]
    elseif info[i] == 'last-generated-id' then found[2] = info[i + 1]
    elseif info[i] == 'entries-added' then found[3] = info[i + 1]
    elseif info[i] == 'first-entry' and info[i + 1] then found[4] = info[i + 1][1] end
  end
end
for i = 2, #ARGV do
  local there = redis.call('XRANGE', KEYS[1], ARGV[i], '+', 'COUNT', ARGV[1])
  found[#found + 1] = #there > 0 and there[1][1]
  found[#found + 1] = #there
end
return found
";

/// Trims a stream: `KEYS` the stream; `ARGV` the id before which nothing is needed. The last entry below it stays, so that whoever
/// reads on at the entry after can tell that nothing in between is gone. Servers before 6.2 delete entry by entry.
const TRIM: &str = r"
local last = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', 1)[1]
if not last then return 0 end
local trimmed = redis.pcall('XTRIM', KEYS[1], 'MINID', last[1])
if type(trimmed) == 'number' then return trimmed end
trimmed = 0
while true do
  local old = redis.call('XRANGE', KEYS[1], '-', last[1], 'COUNT', 100)
  if #old <= 1 then return trimmed end
  for _, entry in ipairs(old) do
    if entry[1] ~= last[1] then trimmed = trimmed + redis.call('XDEL', KEYS[1], entry[1]) end
  end
end
";

/// The field beside the counter that says when the state was made.
pub(super) const MADE: &str = "made";

/// Changes state: `KEYS` the hash, and the hash of the counter; `ARGV` the hash's short name, then for each change a key, what is
/// expected (`*`, empty for absent, or a revision) and `+` with the value or `-` with nothing. A value is stored behind its
/// revision. Gives the new revisions, and nothing where the expectation did not hold.
///
/// The first write takes memory from nobody and lets those after it through when memory is full: only when positions move on can
/// a full bus be emptied. Revisions follow the clock, so that a server that was put back to an older copy never hands out one again.
const STORE: &str = r"
redis.call('HDEL', KEYS[2], '')
local now = redis.call('TIME')
redis.call('HSETNX', KEYS[2], 'made', now[1] .. '.' .. now[2])
local revision = math.max(tonumber(redis.call('HGET', KEYS[2], 'revision') or 0), now[1] * 1000000 + now[2])
local done = {}
for i = 2, #ARGV, 4 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  local expected = ARGV[i + 1]
  if expected == '*' or (old or ':') :match('^(%d*):') == expected then
    revision = revision + 1
    local text = string.format('%.0f', revision)
    if ARGV[i + 2] == '+' then redis.call('HSET', KEYS[1], ARGV[i], text .. ':' .. ARGV[i + 3])
    else redis.call('HDEL', KEYS[1], ARGV[i]) end
    done[#done + 1] = text
  else
    done[#done + 1] = false
  end
end
redis.call('HSET', KEYS[2], 'revision', string.format('%.0f', revision), '/' .. ARGV[1], 1)
return done
";

/// Appends when memory is full: `KEYS` the stream; `ARGV` for each entry the number of its names and values, then these. As with
/// [`STORE`], a first write that takes nothing lets the others through.
const APPEND: &str = r"
redis.call('XDEL', KEYS[1], '0-1')
local ids, i = {}, 1
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  ids[#ids + 1] = redis.call('XADD', KEYS[1], '*', unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end
return ids
";

/// Writes, and leaves nothing behind: `KEYS` a hash that is not there. As with [`STORE`], also when memory is full.
const TOUCH: &str = r"
redis.call('HDEL', KEYS[1], '')
redis.call('HSET', KEYS[1], '', 1)
return redis.call('HDEL', KEYS[1], '')
";

fn script(text: &str, keys: &[&str]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(text).arg(keys.len()).arg(keys);
    command
}

pub(super) fn claim(registry: &str, topic: &str, streams: &[String]) -> Cmd {
    let mut command = script(CLAIM, &[registry]);
    command.arg(topic).arg(streams.len()).arg(streams);
    command
}

pub(super) fn look(stream: &str, count: usize, ids: impl IntoIterator<Item = String>) -> Cmd {
    let mut command = script(LOOK, &[stream]);
    command.arg(count);
    for id in ids {
        command.arg(id);
    }
    command
}

/// `below` is the last id that is not needed.
pub(super) fn trim(stream: &str, below: &str) -> Cmd {
    let mut command = script(TRIM, &[stream]);
    command.arg(below);
    command
}

/// The changes are to be added, four arguments each.
pub(super) fn store(hash: &str, counter: &str, name: &str) -> Cmd {
    let mut command = script(STORE, &[hash, counter]);
    command.arg(name);
    command
}

pub(super) fn touch(key: &str) -> Cmd {
    script(TOUCH, &[key])
}

/// Takes a string, and does nothing with it.
pub(super) fn only_take(text: &[u8]) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg("return 1").arg(0).arg(text);
    command
}

/// The entries are to be added.
pub(super) fn append(stream: &str) -> Cmd {
    script(APPEND, &[stream])
}
