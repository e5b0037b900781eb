//! A ledger as bytes. Integers are LEB128; `zz` is zigzag, so that times may go back.
//!
//! ```text
//! version: u8 | namespace, owner, subscriber, topic: each length, text | partition | generation | upto | count | seen
//!   | in version 2: events ever appended before upto
//!   | open count | open: each  position less the one before | attempts * 2 + has key | key: u64 little-endian, if any
//!                              | if attempts: zz first less the first before | zz last less first | zz due less last
//!                              | else: due
//! ```
//!
//! Version 1 is written where positions tell how many events are between them.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::{BadLedger, Ledger, LedgerName, Millis, Open, named};
use crate::bus::Position;

const PLAIN: u8 = 1;
const COUNTED: u8 = 2;

pub(super) fn encode(name: &LedgerName, ledger: &Ledger) -> Bytes {
    let mut out = BytesMut::with_capacity(160 + 16 * ledger.open.len());
    out.put_u8(if ledger.before.is_some() { COUNTED } else { PLAIN });
    let owner = &name.subscription.owner;
    for text in [&*owner.namespace, &*owner.name, &*name.subscription.subscriber, name.partition.topic.as_str()] {
        put(&mut out, text.len() as u128);
        out.put_slice(text.as_bytes());
    }
    put(&mut out, name.partition.index.into());
    let numbers = [ledger.generation.into(), ledger.upto.0, ledger.count.into(), ledger.seen.0.into()];
    for number in numbers.into_iter().chain(ledger.before.map(u128::from)) {
        put(&mut out, number);
    }
    put(&mut out, ledger.open.len() as u128);
    let (mut at_before, mut first_before) = (0, Millis(0));
    for (at, open) in &ledger.open {
        put(&mut out, at.0 - at_before);
        put(&mut out, u128::from(open.attempts) << 1 | u128::from(open.key != 0));
        if open.key != 0 {
            out.put_u64_le(open.key);
        }
        if open.attempts == 0 {
            put(&mut out, open.due.0.into());
        } else {
            put_signed(&mut out, open.first, first_before);
            put_signed(&mut out, open.last, open.first);
            put_signed(&mut out, open.due, open.last);
            first_before = open.first;
        }
        at_before = at.0;
    }
    out.freeze()
}

pub(super) fn decode(bytes: &[u8]) -> Result<(LedgerName, Ledger), BadLedger> {
    match bytes.split_first() {
        Some((&version @ (PLAIN | COUNTED), rest)) => read(version, rest).ok_or(BadLedger::Damaged),
        Some((&version, _)) if version > COUNTED => Err(BadLedger::Version(version)),
        _ => Err(BadLedger::Damaged),
    }
}

fn read(version: u8, mut rest: &[u8]) -> Option<(LedgerName, Ledger)> {
    let rest = &mut rest;
    let parts = [take_text(rest)?, take_text(rest)?, take_text(rest)?, take_text(rest)?];
    let name = named(parts, u16::try_from(take(rest)?).ok()?);
    let mut ledger = Ledger {
        generation: take_u64(rest)?,
        upto: Position(take(rest)?),
        count: take_u64(rest)?,
        seen: Millis(take_u64(rest)?),
        before: if version == COUNTED { Some(take_u64(rest)?) } else { None },
        open: BTreeMap::new(),
    };
    let (mut at, mut first_before) = (0u128, Millis(0));
    for _ in 0..take(rest)? {
        at = at.checked_add(take(rest)?)?;
        let head = take(rest)?;
        let mut open = Open { attempts: u32::try_from(head >> 1).ok()?, ..Open::default() };
        if head & 1 == 1 {
            let (key, tail) = rest.split_first_chunk::<8>()?;
            (open.key, *rest) = (u64::from_le_bytes(*key), tail);
        }
        if open.attempts == 0 {
            open.due = Millis(take_u64(rest)?);
        } else {
            open.first = take_signed(rest, first_before)?;
            open.last = take_signed(rest, open.first)?;
            open.due = take_signed(rest, open.last)?;
            first_before = open.first;
        }
        ledger.open.insert(Position(at), open);
    }
    rest.is_empty().then_some((name, ledger))
}

fn put(out: &mut BytesMut, mut number: u128) {
    while number >= 0x80 {
        out.put_u8((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn put_signed(out: &mut BytesMut, time: Millis, base: Millis) {
    let difference = i128::from(time.0) - i128::from(base.0);
    put(out, ((difference << 1) ^ (difference >> 127)) as u128);
}

fn take(rest: &mut &[u8]) -> Option<u128> {
    let (mut number, mut shift) = (0u128, 0);
    loop {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        let bits = u128::from(byte & 0x7f);
        if shift > 127 || bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    u64::try_from(take(rest)?).ok()
}

fn take_signed(rest: &mut &[u8], base: Millis) -> Option<Millis> {
    let coded = take(rest)?;
    let difference = (coded >> 1) as i128 ^ -((coded & 1) as i128);
    u64::try_from(i128::from(base.0).checked_add(difference)?).ok().map(Millis)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(take(rest)?).ok()?;
    let (text, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}
