//! Opening a log: which files belong to it, and where it ends.
//!
//! Only the last segment may end in a write that was cut off, since a segment is synced before the next one is begun. A record
//! that is not whole there is either part of such a write, and is cut off, or it was synced once and the disk has lost it. Each
//! record says how many before it were not synced when it was written; so a later record that is whole tells the two apart.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evoke_api::names::TopicName;

use super::OpenError;
use super::disk::{Disk, DiskFile, Fill};
use super::env::Env;
use super::head::Tail;
use super::record::{Found, Kind, RecordHeader, SEGMENT_HEADER, SegmentHeader};
use super::segment::{MARK_EVERY, Mark, Scan, Segment, Spot, Step};
use super::topic::{NAME_FILE, TopicLog, segment_path, segment_seq};

/// A segment's file as it was found.
pub(super) struct FoundSegment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) len: u64,
    pub(super) header: SegmentHeader,
    pub(super) seed: u32,
}

/// The segments of a folder in order, and a number after all that were used. Files that were made ahead are deleted, damaged ones
/// put aside.
pub(super) fn find_segments(disk: &dyn Disk, dir: &Path, kind: Kind) -> Result<(Vec<FoundSegment>, u64), OpenError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    let mut seqs: Vec<u64> = disk.list(dir).map_err(at(dir))?.iter().filter_map(|name| segment_seq(name)).collect();
    seqs.sort_unstable();
    let next_seq = seqs.last().map_or(1, |last| last + 1);
    let mut found = Vec::new();
    for seq in seqs {
        let path = segment_path(dir, seq);
        let file = disk.open(&path).map_err(at(&path))?;
        let len = file.len().map_err(at(&path))?;
        let mut bytes = Vec::new();
        file.read(&mut bytes, 0, SEGMENT_HEADER).map_err(at(&path))?;
        match SegmentHeader::decode(&bytes) {
            Found::Segment(header, seed) if header.seq == seq && header.kind == kind => {
                found.push(FoundSegment { path, file, len, header, seed });
            }
            Found::Blank => {
                drop(file);
                disk.remove(&path).map_err(at(&path))?;
            }
            Found::Segment(..) | Found::Damaged => {
                let aside = path.with_extension("damaged");
                tracing::error!(
                    file = %path.display(),
                    kept_as = %aside.display(),
                    "a segment of the log has a damaged header: its events are not read; check the disk"
                );
                disk.rename(&path, &aside).map_err(at(&path))?;
            }
        }
    }
    Ok((found, next_seq))
}

/// What the last segment of a log holds.
pub(super) struct Recovered {
    /// After the last whole record.
    pub(super) end: Spot,
    pub(super) marks: Vec<Mark>,
    pub(super) last_time: u64,
    /// Damage: where it begins, and the position behind it.
    pub(super) holes: Vec<(Spot, u64)>,
    /// How many bytes of an unfinished write were overwritten with zeros.
    pub(super) cut: u64,
}

/// Reads a segment to its end, and cuts off what was not written whole. `visit` gets each record and its payload.
pub(super) fn recover(segment: &FoundSegment, mut visit: impl FnMut(RecordHeader, &[u8])) -> io::Result<Recovered> {
    let start = Spot { offset: SEGMENT_HEADER as u64, position: segment.header.base };
    let mut scan = segment.scan(start);
    let mut recovered =
        Recovered { end: start, marks: Vec::new(), last_time: segment.header.base_time, holes: Vec::new(), cut: 0 };
    loop {
        match scan.step(u64::MAX)? {
            Step::Record(spot, header) => {
                visit(header, scan.payload(spot, header));
                if recovered.marks.last().is_none_or(|m| spot.offset >= m.spot.offset + MARK_EVERY) {
                    recovered.marks.push(Mark { spot, time: header.time });
                }
                recovered.last_time = recovered.last_time.max(header.time);
                recovered.end = scan.at();
            }
            Step::End(end) | Step::Invalid(end) => {
                let Some(dirty) = scan.dirty_until()? else {
                    return Ok(recovered);
                };
                match segment.damaged_until(end)? {
                    Some(resume) => {
                        recovered.holes.push((end, resume.position));
                        scan = segment.scan(resume);
                    }
                    None => {
                        recovered.cut = dirty - end.offset;
                        zero(&*segment.file, end.offset, dirty)?;
                        return Ok(recovered);
                    }
                }
            }
        }
    }
}

impl FoundSegment {
    fn scan(&self, from: Spot) -> Scan<'_> {
        Scan::new(&*self.file, self.seed, self.header.base, from, self.len)
    }

    /// Where records go on after `spot`, if one behind it says that what was there had been synced.
    fn damaged_until(&self, spot: Spot) -> io::Result<Option<Spot>> {
        let mut scan = self.scan(spot);
        let mut first = None;
        while let Some((found, mut header)) = scan.resync()? {
            let mut at = found;
            first.get_or_insert(found);
            scan = self.scan(found);
            loop {
                if at.position.saturating_sub(header.unsynced.into()) > spot.position {
                    return Ok(first);
                }
                match scan.step(u64::MAX)? {
                    Step::Record(next, after) => (at, header) = (next, after),
                    Step::End(_) | Step::Invalid(_) => break,
                }
            }
        }
        Ok(None)
    }
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let piece = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write(zeros.get(..piece).unwrap_or_default(), at)?;
        at += piece as u64;
    }
    file.sync()
}

/// Opens a topic's folder.
pub(super) fn open_topic(env: &Arc<Env>, dir: &Path) -> Result<TopicLog, OpenError> {
    let disk = &*env.disk;
    let io = |source| OpenError::Io { path: dir.to_owned(), source };
    let name = TopicName::parse(&read_text(disk, &dir.join(NAME_FILE)).map_err(io)?);
    let (mut found, next_seq) = find_segments(disk, dir, Kind::Events)?;
    let Some(last) = found.pop() else {
        return Err(OpenError::Damaged { path: dir.to_owned(), what: "the topic has no readable segment".into() });
    };
    // One that was begun after a failed sync took another's place, which may not have been deleted for good.
    let mut live = Vec::new();
    let next_bases: Vec<u64> = found.iter().skip(1).map(|s| s.header.base).chain([last.header.base]).collect();
    for (segment, next) in found.into_iter().zip(next_bases) {
        if segment.header.base < next {
            live.push(segment);
        } else {
            disk.remove(&segment.path).map_err(io)?;
        }
    }
    let found = live;
    let bases = found.iter().skip(1).map(|s| s.header.base).chain([last.header.base]);
    let mut segments: VecDeque<Arc<Segment>> = found
        .iter()
        .zip(bases)
        .map(|(s, next)| {
            let end = Spot { offset: s.len.max(SEGMENT_HEADER as u64), position: next.max(s.header.base) };
            Arc::new(Segment::new(env.disk.clone(), s.path.clone(), s.header, s.seed, Some(end)))
        })
        .collect();
    let recovered = recover(&last, |_, _| {}).map_err(io)?;
    let segment = Arc::new(Segment::new(env.disk.clone(), last.path.clone(), last.header, last.seed, None));
    segment.extend(recovered.end, &recovered.marks);
    segments.push_back(segment.clone());
    let tail =
        Tail { segment: segment.clone(), file: last.file, room: last.len, last_time: recovered.last_time, next_seq };
    let topic = TopicLog::new(name, dir.to_owned(), env.clone(), segments, tail);
    for (from, to) in recovered.holes {
        topic.report_hole(&segment, from, to);
    }
    if recovered.cut > 0 {
        topic.metrics.cut_bytes.inc_by(recovered.cut);
        tracing::warn!(
            topic = %topic.name,
            file = %segment.path.display(),
            bytes = recovered.cut,
            position = recovered.end.position,
            "the log ended in an unfinished write, which was cut off: none of it had been acknowledged"
        );
    }
    Ok(topic)
}

/// Makes a topic: all of its folder, or none of it.
pub(super) fn make_topic(env: &Arc<Env>, root: &Path, name: &TopicName) -> io::Result<TopicLog> {
    let disk = &*env.disk;
    let dir = root.join(folder_name(name));
    let building = root.join(format!("{}.new", folder_name(name)));
    disk.create_dir(&building)?;
    for left_over in disk.list(&building)? {
        disk.remove(&building.join(left_over))?;
    }
    write_text(disk, &building.join(NAME_FILE), name.as_str())?;
    let time = super::head::nanos(env.now());
    let header = SegmentHeader { kind: Kind::Events, seq: 1, base: 0, base_time: time };
    let (bytes, seed) = header.encode();
    let room = env.segments.first;
    let file = disk.create(&segment_path(&building, 1), room, Fill::Zeros)?;
    file.write(&bytes, 0)?;
    file.sync()?;
    disk.sync_dir(&building)?;
    disk.rename(&building, &dir)?;
    disk.sync_dir(root)?;
    let segment = Arc::new(Segment::new(env.disk.clone(), segment_path(&dir, 1), header, seed, None));
    let tail = Tail { segment: segment.clone(), file, room, last_time: time, next_seq: 2 };
    Ok(TopicLog::new(name.clone(), dir, env.clone(), [segment].into(), tail))
}

/// A folder's name for a topic: the topic's own where every file system can hold it, else told apart by a checksum.
fn folder_name(topic: &TopicName) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let name = topic.as_str();
    if name.len() <= 120 && name.chars().all(plain) && !name.starts_with('.') && !name.ends_with(".new") {
        return name.to_owned();
    }
    let kept: String = name.chars().take(100).map(|c| if plain(c) { c } else { '_' }).collect();
    format!("{}~{:08x}", kept.trim_start_matches('.'), crc32fast::hash(name.as_bytes()))
}

/// Reads a small file.
pub(super) fn read_text(disk: &dyn Disk, path: &Path) -> io::Result<String> {
    let file = disk.open(path)?;
    let mut bytes = Vec::new();
    file.read(&mut bytes, 0, usize::try_from(file.len()?).unwrap_or(usize::MAX).min(64 << 10))?;
    String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Writes a small file and syncs it, but not its folder.
pub(super) fn write_text(disk: &dyn Disk, path: &Path, text: &str) -> io::Result<()> {
    let file = disk.create(path, text.len() as u64, Fill::Reserve)?;
    file.write(text.as_bytes(), 0)?;
    file.sync()
}
