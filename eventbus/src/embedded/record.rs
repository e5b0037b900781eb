//! The bytes of a segment: its header, and records with a checksum each. `docs/on-disk-format.md` is the specification.

use bytes::BufMut;

/// What a segment begins with, in bytes; the first record follows at once.
pub(super) const SEGMENT_HEADER: usize = 64;
/// What each record's payload has before it, in bytes.
pub(super) const RECORD_HEADER: usize = 24;

const MAGIC: &[u8; 8] = b"evokeseg";
const FORMAT: u32 = 1;
const CRC_AT: usize = SEGMENT_HEADER - 4;

/// What a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Events of one topic; a payload is an event's frame.
    Events = 0,
    /// Changes of state.
    State = 1,
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) kind: Kind,
    /// Segments of a folder are ordered by it.
    pub(super) seq: u64,
    /// The position of the first record; of state, the next revision.
    pub(super) base: u64,
    /// No record was appended before, in nanoseconds since 1970.
    pub(super) base_time: u64,
}

/// What the first bytes of a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A segment, and the seed of its records' checksums.
    Segment(SegmentHeader, u32),
    /// A file made ahead that was never used.
    Blank,
    /// Neither.
    Damaged,
}

impl SegmentHeader {
    /// The header's bytes, and the seed of the records' checksums.
    pub(super) fn encode(&self) -> ([u8; SEGMENT_HEADER], u32) {
        let mut out = [0; SEGMENT_HEADER];
        let mut rest = &mut out[..];
        rest.put_slice(MAGIC);
        rest.put_u32_le(FORMAT);
        rest.put_u32_le(self.kind as u32);
        rest.put_u64_le(self.seq);
        rest.put_u64_le(self.base);
        rest.put_u64_le(self.base_time);
        let crc = crc32fast::hash(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        (out, crc)
    }

    /// Reads what a file begins with.
    pub(super) fn decode(bytes: &[u8]) -> Found {
        if bytes.iter().take(SEGMENT_HEADER).all(|b| *b == 0) {
            return Found::Blank;
        }
        let kind = match u32_at(bytes, 12) {
            Some(0) => Kind::Events,
            Some(1) => Kind::State,
            _ => return Found::Damaged,
        };
        let (Some(seq), Some(base), Some(base_time)) = (u64_at(bytes, 16), u64_at(bytes, 24), u64_at(bytes, 32)) else {
            return Found::Damaged;
        };
        let header = Self { kind, seq, base, base_time };
        let (encoded, seed) = header.encode();
        if bytes.get(..SEGMENT_HEADER) == Some(&encoded[..]) { Found::Segment(header, seed) } else { Found::Damaged }
    }
}

/// What stands before a record's payload, but its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Of the payload, in bytes; never 0.
    pub(super) len: u32,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    /// The record's place in its segment, from 0.
    pub(super) index: u32,
    /// How many records before this one were not known to be synced when it was written.
    pub(super) unsynced: u32,
}

/// What stands at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A whole record with the right checksum. Its payload follows the header; the next record is at `next`.
    Record { header: RecordHeader, next: usize },
    /// The bytes end before the record does, which would need so many from its start on.
    Short(usize),
    /// No record was written here.
    Empty,
    /// Something that is no record of this segment.
    Invalid,
}

/// How many bytes a payload of this length takes in a segment.
pub(super) fn record_len(payload: usize) -> usize {
    (RECORD_HEADER + payload).next_multiple_of(8)
}

/// Appends a record to `out`, which starts at a multiple of 8.
pub(super) fn encode(out: &mut Vec<u8>, seed: u32, header: RecordHeader, payload: &[u8]) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(header.len);
    out.put_u64_le(header.time);
    out.put_u32_le(header.index);
    out.put_u32_le(header.unsynced);
    out.put_slice(payload);
    let mut crc = crc32fast::Hasher::new_with_initial(seed);
    crc.update(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.finalize().to_le_bytes());
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Reads the record at `at`, whose place in the segment must be `index`.
pub(super) fn parse(bytes: &[u8], at: usize, seed: u32, index: u32) -> Parsed {
    let Some(fixed) = bytes.get(at..at + RECORD_HEADER) else {
        return Parsed::Short(RECORD_HEADER);
    };
    let (Some(crc), Some(header)) = (u32_at(fixed, 0), header_at(fixed)) else {
        return Parsed::Short(RECORD_HEADER);
    };
    if header.len == 0 {
        return if fixed.iter().all(|b| *b == 0) { Parsed::Empty } else { Parsed::Invalid };
    }
    if header.index != index {
        return Parsed::Invalid;
    }
    let whole = RECORD_HEADER + header.len as usize;
    let Some(covered) = bytes.get(at + 4..at + whole) else {
        return Parsed::Short(record_len(header.len as usize));
    };
    let mut sum = crc32fast::Hasher::new_with_initial(seed);
    sum.update(covered);
    if sum.finalize() != crc {
        return Parsed::Invalid;
    }
    Parsed::Record { header, next: at + record_len(header.len as usize) }
}

/// Looks for a whole record in `bytes`, which lie at a multiple of 8, `offset`, in their file: where in `bytes`, and its header.
/// `least` is the smallest index it can have.
pub(super) fn resync(bytes: &[u8], offset: u64, seed: u32, least: u32) -> Option<(usize, RecordHeader)> {
    (0..bytes.len()).step_by(8).find_map(|at| {
        let header = header_at(bytes.get(at..at + RECORD_HEADER)?)?;
        // Records take at least 32 bytes, which bounds the index; it spares a checksum at almost every offset.
        if header.len == 0 || header.index < least || u64::from(header.index) > (offset + at as u64) / 32 {
            return None;
        }
        matches!(parse(bytes, at, seed, header.index), Parsed::Record { .. }).then_some((at, header))
    })
}

fn header_at(fixed: &[u8]) -> Option<RecordHeader> {
    Some(RecordHeader {
        len: u32_at(fixed, 4)?,
        time: u64_at(fixed, 8)?,
        index: u32_at(fixed, 16)?,
        unsynced: u32_at(fixed, 20)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..at + 4)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..at + 8)?.first_chunk()?))
}
