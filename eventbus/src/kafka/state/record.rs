//! The records of the state topic, version 1. Integers are little-endian.
//!
//! ```text
//! record key          value                                            is
//! k | key             1 | 0 deleted, 1 there | value                   a put without condition
//! s | through: 8 | key  1 | 0/1 | revision: u64 | value                what a key is once attempts up to `through` are judged
//! s | through: 8 | key  no value                                       one that a later one replaced
//! a | id: 16 | key    1 | 0/1 | condition: u8 | revision: u64 | value  an attempt: a put with a condition
//! a | id: 16 | key    no value                                         an attempt that is settled by an `s`
//! ```
//!
//! Kafka keeps the last record of each record key. So what may overtake each other has record keys of its own: each attempt, and
//! each settlement, of which processes may write several.

use bytes::{BufMut as _, Bytes};

use crate::bus::Expect;

const VERSION: u8 = 1;
/// Tells one attempt from every other.
pub(super) type AttemptId = [u8; 16];

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Whatever was there, it is this now.
    Put { value: Option<Bytes> },
    /// The outcome of all attempts up to `through`.
    Settled { value: Option<Bytes>, revision: u64, through: i64 },
    /// A settlement that is no longer in the log.
    Replaced { through: i64 },
    /// A put that counts if the condition holds when its turn comes.
    Attempt { id: AttemptId, expect: Expect, value: Option<Bytes> },
}

/// The record key of a change.
pub(super) fn record_key(key: &str, change: &Change) -> Vec<u8> {
    match change {
        Change::Put { .. } => [b"k", key.as_bytes()].concat(),
        Change::Settled { through, .. } | Change::Replaced { through } => settlement_key(key, *through),
        Change::Attempt { id, .. } => attempt_key(key, id),
    }
}

/// The record key of a settlement.
pub(super) fn settlement_key(key: &str, through: i64) -> Vec<u8> {
    [b"s", &through.to_le_bytes()[..], key.as_bytes()].concat()
}

/// The record key of an attempt.
pub(super) fn attempt_key(key: &str, id: &AttemptId) -> Vec<u8> {
    [b"a", &id[..], key.as_bytes()].concat()
}

/// The record value of a change; `None` takes the record with its key off the log.
pub(super) fn record_value(change: &Change) -> Option<Vec<u8>> {
    let (Change::Put { value } | Change::Settled { value, .. } | Change::Attempt { value, .. }) = change else {
        return None;
    };
    let mut out = Vec::with_capacity(24 + value.as_ref().map_or(0, Bytes::len));
    out.extend_from_slice(&[VERSION, u8::from(value.is_some())]);
    match change {
        Change::Put { .. } | Change::Replaced { .. } => {}
        Change::Settled { revision, .. } => out.put_u64_le(*revision),
        Change::Attempt { expect, .. } => {
            let (condition, revision) = match expect {
                Expect::Any => (0, 0),
                Expect::Absent => (1, 0),
                Expect::Revision(revision) => (2, *revision),
            };
            out.push(condition);
            out.put_u64_le(revision);
        }
    }
    out.extend_from_slice(value.as_deref().unwrap_or_default());
    Some(out)
}

/// Reads a record: its key and what it changes, `None` for an attempt that is settled.
///
/// # Errors
/// In words, for a record that no evoke of this version writes.
pub(super) fn read(key: &[u8], value: Option<&[u8]>) -> Result<Option<(String, Change)>, &'static str> {
    const FOREIGN: &str = "a record that is not evoke's";
    let (kind, rest) = key.split_first().ok_or(FOREIGN)?;
    let (mut id, mut through) = (AttemptId::default(), 0);
    let name = match kind {
        b'k' => rest,
        b's' => {
            let (number, name) = rest.split_first_chunk().ok_or(FOREIGN)?;
            through = i64::from_le_bytes(*number);
            name
        }
        b'a' => {
            let (number, name) = rest.split_first_chunk().ok_or(FOREIGN)?;
            id = *number;
            name
        }
        _ => return Err(FOREIGN),
    };
    let name = std::str::from_utf8(name).map_err(|_| FOREIGN)?.to_owned();
    let Some(value) = value else {
        return Ok(match kind {
            b'k' => Some((name, Change::Put { value: None })),
            b's' => Some((name, Change::Replaced { through })),
            _ => None,
        });
    };
    let (&version, rest) = value.split_first().ok_or(FOREIGN)?;
    if version != VERSION {
        return Err("a record of a later evoke: take that version here too");
    }
    let (&there, rest) = rest.split_first().ok_or(FOREIGN)?;
    let data = |rest: &[u8]| (there != 0).then(|| Bytes::copy_from_slice(rest));
    let change = match kind {
        b'k' => Change::Put { value: data(rest) },
        b's' => {
            let (revision, rest) = rest.split_first_chunk().ok_or(FOREIGN)?;
            Change::Settled { value: data(rest), revision: u64::from_le_bytes(*revision), through }
        }
        _ => {
            let (&condition, rest) = rest.split_first().ok_or(FOREIGN)?;
            let (revision, rest) = rest.split_first_chunk().ok_or(FOREIGN)?;
            let expect = match condition {
                0 => Expect::Any,
                1 => Expect::Absent,
                2 => Expect::Revision(u64::from_le_bytes(*revision)),
                _ => return Err(FOREIGN),
            };
            Change::Attempt { id, expect, value: data(rest) }
        }
    };
    Ok(Some((name, change)))
}
