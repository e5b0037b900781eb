//! Limits that are no field of a manifest and that users meet, or several crates share. Others stand where they are kept to.

use std::time::Duration;

/// Default of `maxEventBytes`: the largest event a bus takes, as encoded.
pub const EVENT_BYTES: usize = 1024 * 1024;
/// Events read from outside and not yet durable, over all sources of a process, in bytes.
pub const IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;
/// A CloudEvents attribute's name, in bytes.
pub const ATTRIBUTE_NAME_BYTES: usize = 64;
/// A CloudEvents attribute's value, in bytes.
pub const ATTRIBUTE_VALUE_BYTES: usize = 32 * 1024;
/// Attributes of one event.
pub const ATTRIBUTES: usize = 128;
/// A CEL condition's text, in bytes.
pub const CONDITION_BYTES: usize = 4 * 1024;
/// A CEL condition's depth as a tree.
pub const CONDITION_DEPTH: usize = 64;
/// The work of one evaluation of a condition: what its macros walk and what it reads as a whole, item by item.
pub const CONDITION_STEPS: u64 = 2_000_000;
/// What conditions keep of the events that they read, for other conditions that read the same ones, over all of a bus, in bytes.
pub const READING_BYTES: usize = 8 * 1024 * 1024;
/// A value of a bus's state, in bytes: every bus takes as much whose servers were not given smaller limits than they come with. It is
/// what NATS takes as a message, less its headers.
pub const STATE_VALUE_BYTES: usize = 1024 * 1024 - 1024;
/// Events that a subscription has put aside for a later retry; at this number it stops reading.
pub const PARKED_EVENTS: usize = 10_000;
/// Events that wait behind others of their key, all of which are under way: at this number, or four times `maxInFlight`, a
/// subscription reads no further, since each of them is written with every record of its position.
pub const QUEUED_EVENTS: usize = 1024;
/// Delivered events that a subscription with a `deduplicationWindow` remembers in one process, about 64 bytes each; beyond it the
/// oldest are forgotten before their time.
pub const REMEMBERED_EVENTS: usize = 200_000;
/// How often a reply may follow a reply.
pub const REPLY_HOPS: u32 = 16;
/// A retry due later than this gives up its place and is parked.
pub const PARK_AFTER: Duration = Duration::from_secs(1);
/// How long a subscriber's finished deliveries may wait to be recorded.
pub const LEDGER_INTERVAL: Duration = Duration::from_millis(100);
/// How much of a record that cannot become an event its dead letter keeps, in bytes.
pub const MALFORMED_KEPT_BYTES: usize = 16 * 1024;
/// How long an input of a condition stays true after its last event.
pub const JOIN_WINDOW: Duration = Duration::from_secs(60);
/// How long a process may take to drain after a signal.
pub const DRAIN: Duration = Duration::from_secs(30);
/// A manifest file, in bytes.
pub const MANIFEST_BYTES: usize = 16 * 1024 * 1024;
/// How deep lists and mappings of a manifest may be nested; each level costs stack.
pub const MANIFEST_DEPTH: usize = 64;
/// What the aliases of one document may add to it, in bytes of text, with [`MANIFEST_NODE_BYTES`] for every value.
pub const MANIFEST_ALIAS_BYTES: usize = 4 * 1024 * 1024;
/// What one value of a manifest counts beside its text.
pub const MANIFEST_NODE_BYTES: usize = 64;
/// How many errors of one document are reported.
pub const MANIFEST_PROBLEMS: usize = 1000;
/// How many broken documents of one file are reported.
pub const MANIFEST_BROKEN: usize = 20;
