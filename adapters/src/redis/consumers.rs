//! Who takes from a list, and the keys beside it that say so: who is alive, what each one holds, and what it removed last.

use std::time::Duration;

use redis::{Value, cmd};
use uuid::Uuid;

use super::removal::KEPT;
use super::source::millis;
use evoke_connect::redis::link::Link;
use evoke_connect::redis::reply;
use evoke_connect::redis::trouble::Trouble;

/// What a consumer says with that it is there.
pub(super) const ALIVE: &str = "SADD";
/// What one finds the others with.
pub(super) const SEARCH: &str = "SMEMBERS";

/// Puts back what a dead consumer holds, the last item first, so that each call keeps their order: `KEYS` its sign of life, its
/// items, its note, the list, and the consumers; `ARGV` its name, a name for the note, how long that is kept, in milliseconds, and
/// how many items go back at the most. Gives how many did. It is one step, so that nothing is taken from one that lives, and
/// nobody who waits for items gets the last one first.
///
/// The note tells the consumer, should it not be dead, that its items are not its own any more. One that holds nothing stays on the
/// list of consumers for as long as its note is kept: what waits for an item on its behalf, in the server or in a process that
/// stood still, may yet bring one.
const GIVE_BACK: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('LLEN', KEYS[2]) == 0 then
  if redis.call('EXISTS', KEYS[3]) == 0 then redis.call('SREM', KEYS[5], ARGV[1]) end
  return 0
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
local moved = 0
while moved < tonumber(ARGV[4]) and redis.call('LMOVE', KEYS[2], KEYS[4], 'RIGHT', 'LEFT') do moved = moved + 1 end
return moved
";
/// Items that go back in one exchange.
const AT_ONCE: i64 = 100;

/// A list and the keys beside it, in the list's own slot of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    list: String,
    prefix: String,
}

impl Keys {
    pub(super) fn new(list: String) -> Self {
        Self { prefix: prefix(&list), list }
    }

    pub(super) fn list(&self) -> &str {
        &self.list
    }

    pub(super) fn items(&self, consumer: &str) -> String {
        format!("{}:items:{consumer}", self.prefix)
    }

    pub(super) fn note(&self, consumer: &str) -> String {
        format!("{}:removed:{consumer}", self.prefix)
    }

    fn alive(&self, consumer: &str) -> String {
        format!("{}:alive:{consumer}", self.prefix)
    }

    fn consumers(&self) -> String {
        format!("{}:consumers", self.prefix)
    }
}

/// A key with a hash tag of its own keeps it; any other key becomes the tag.
fn prefix(key: &str) -> String {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    if tag.is_some_and(|tag| !tag.is_empty()) { format!("{key}:evoke") } else { format!("{{{key}}}:evoke") }
}

/// A name for a note that no other has.
pub(super) fn new_name() -> Vec<u8> {
    Uuid::now_v7().to_string().into_bytes()
}

/// Says that a consumer is there, also to those who took it for dead and have struck it off: its items must be found when it is.
/// Gives what is noted for it, which is a new name where that was nothing.
pub(super) async fn say_alive(
    link: &Link,
    keys: &Keys,
    consumer: &str,
    dead_after: Duration,
) -> Result<Vec<u8>, Trouble> {
    let note = keys.note(consumer);
    let mut commands = redis::pipe();
    // First, or somebody who looks in between might strike it off again.
    commands.cmd("SET").arg(keys.alive(consumer)).arg(1).arg("PX").arg(millis(dead_after));
    commands.cmd(ALIVE).arg(keys.consumers()).arg(consumer);
    commands.cmd("SET").arg(&note).arg(new_name()).arg("NX").arg("PX").arg(millis(KEPT));
    commands.cmd("GETEX").arg(&note).arg("PX").arg(millis(KEPT));
    let noted = link.ask_all(&commands).await?.pop().and_then(reply::bytes);
    Ok(noted.ok_or(reply::Garbled("GETEX"))?)
}

/// Puts back what all consumers hold that are dead, `own` aside: how many items that were.
pub(super) async fn search(link: &Link, keys: &Keys, own: &str) -> Result<i64, Trouble> {
    let consumers = link.ask(cmd(SEARCH).arg(keys.consumers())).await?;
    let consumers = reply::array(consumers).unwrap_or_default().into_iter().filter_map(reply::string);
    let mut moved = 0;
    for consumer in consumers {
        if consumer != own {
            moved += give_back(link, keys, &consumer).await?;
        }
    }
    Ok(moved)
}

async fn give_back(link: &Link, keys: &Keys, consumer: &str) -> Result<i64, Trouble> {
    let mut moved = 0;
    loop {
        let mut command = cmd("EVAL");
        command.arg(GIVE_BACK).arg(5);
        command.arg(keys.alive(consumer)).arg(keys.items(consumer)).arg(keys.note(consumer));
        command.arg(keys.list()).arg(keys.consumers());
        command.arg(consumer).arg(new_name()).arg(millis(KEPT)).arg(AT_ONCE);
        let Value::Int(found) = link.ask(&command).await? else {
            return Err(reply::Garbled("the script that puts back").into());
        };
        moved += found;
        if found < AT_ONCE {
            return Ok(moved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::prefix;

    #[test]
    fn the_keys_beside_a_list_are_in_its_slot() {
        assert_eq!(prefix("orders"), "{orders}:evoke");
        assert_eq!(prefix("{shop}orders"), "{shop}orders:evoke");
        assert_eq!(prefix("{}orders"), "{{}orders}:evoke");
    }
}
