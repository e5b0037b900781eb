//! A disk in memory that forgets, at a power cut, what was not synced; and that fails by seed.
//!
//! Of each unsynced write any sectors may have reached the disk; of a folder's unsynced changes the first few have. A failed sync
//! leaves the file as it reads now, and forgets that it was not written, as Linux does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::disk::{Disk, DiskFile, Fill};

const SECTOR: usize = 512;

/// A seeded source of chance.
#[derive(Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    pub(super) fn hits(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// What goes wrong while there is power.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskFaults {
    /// Syncs that fail, of a thousand.
    pub(super) sync: u64,
    /// Writes that fail after a part of them, of a thousand.
    pub(super) write: u64,
    /// Files can be made while all of them take no more bytes.
    pub(super) space: Option<u64>,
}

type Id = u64;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

#[derive(Debug, Default)]
struct FileState {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Debug, Default)]
struct Folder {
    now: BTreeMap<String, Id>,
    durable: BTreeMap<String, Id>,
    unsynced: Vec<Naming>,
}

/// A name put in, or over another, and a name taken out, at once.
type Naming = (Option<(String, Id)>, Option<String>);

#[derive(Debug)]
struct Sim {
    files: HashMap<Id, FileState>,
    folders: HashMap<Id, Folder>,
    next_id: Id,
    rng: Rng,
    faults: DiskFaults,
    /// Changes until the power is cut.
    left: u64,
}

/// What happened on a disk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Syncs of folders that were held up.
    pub(super) held: u64,
    /// Files that there was no space for.
    pub(super) refused: u64,
    /// Syncs of files.
    pub(super) syncs: u64,
}

/// Holds up whoever syncs a folder.
#[derive(Debug, Default)]
struct Hooks {
    held: Mutex<bool>,
    released: Condvar,
    seen: watch::Sender<Seen>,
}

/// See [`SimDisk::hold_folders`].
pub(super) struct Held(Arc<Hooks>);

impl Drop for Held {
    fn drop(&mut self) {
        *self.0.held.lock() = false;
        self.0.released.notify_all();
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct SimDisk {
    sim: Arc<Mutex<Sim>>,
    off: Arc<watch::Sender<bool>>,
    hooks: Arc<Hooks>,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: Id,
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        let sim = Sim {
            files: HashMap::new(),
            folders: HashMap::from([(0, Folder::default())]),
            next_id: 1,
            rng: Rng(seed),
            faults: DiskFaults::default(),
            left: u64::MAX,
        };
        Self::of(sim)
    }

    fn of(sim: Sim) -> Self {
        let off = Arc::new(watch::Sender::new(false));
        Self { sim: Arc::new(Mutex::new(sim)), off, hooks: Arc::default() }
    }

    /// Holds up the syncs of folders, so that files that were made are not handed over, until the guard is dropped.
    pub(super) fn hold_folders(&self) -> Held {
        *self.hooks.held.lock() = true;
        Held(self.hooks.clone())
    }

    /// Follows what happens.
    pub(super) fn watch_seen(&self) -> watch::Receiver<Seen> {
        self.hooks.seen.subscribe()
    }

    pub(super) fn set_faults(&self, faults: DiskFaults) {
        self.sim.lock().faults = faults;
    }

    /// Cuts the power after so many more changes.
    pub(super) fn cut_after(&self, changes: u64) {
        self.sim.lock().left = changes;
    }

    /// Cuts the power now.
    pub(super) fn cut(&self) {
        self.sim.lock().left = 0;
        self.off.send_replace(true);
    }

    /// Follows whether the power is off.
    pub(super) fn watch_off(&self) -> watch::Receiver<bool> {
        self.off.subscribe()
    }

    /// The disk as it is found when the power comes back.
    pub(super) fn after_power_cut(&self) -> Self {
        let mut sim = self.sim.lock();
        let Sim { files, folders, rng, next_id, .. } = &mut *sim;
        let mut ids: Vec<_> = files.keys().copied().collect();
        ids.sort_unstable();
        let files = ids.into_iter().filter_map(|id| {
            let FileState { mut durable, unsynced, .. } = files.remove(&id)?;
            reach_disk(&mut durable, &unsynced, rng);
            Some((id, FileState { now: durable.clone(), durable, unsynced: Vec::new() }))
        });
        let files = files.collect();
        let mut ids: Vec<_> = folders.keys().copied().collect();
        ids.sort_unstable();
        let folders = ids.into_iter().filter_map(|id| {
            let Folder { mut durable, unsynced, .. } = folders.remove(&id)?;
            let reached = rng.below(unsynced.len() as u64 + 1) as usize;
            unsynced.into_iter().take(reached).for_each(|change| apply(&mut durable, change));
            Some((id, Folder { now: durable.clone(), durable, unsynced: Vec::new() }))
        });
        let folders = folders.collect();
        let sim = Sim {
            files,
            folders,
            next_id: *next_id,
            rng: Rng(rng.below(u64::MAX)),
            faults: DiskFaults::default(),
            left: u64::MAX,
        };
        Self::of(sim)
    }

    /// Every change comes by here.
    fn change<T>(&self, change: impl FnOnce(&mut Sim) -> io::Result<T>) -> io::Result<T> {
        let mut sim = self.sim.lock();
        if sim.left == 0 {
            self.off.send_replace(true);
            return Err(io::Error::other("the power is off"));
        }
        sim.left -= 1;
        change(&mut sim)
    }
}

fn apply(names: &mut BTreeMap<String, Id>, (put, taken): Naming) {
    if let Some(taken) = taken {
        names.remove(&taken);
    }
    if let Some((name, id)) = put {
        names.insert(name, id);
    }
}

/// Some sectors of what was not synced are written, by chance.
fn reach_disk(durable: &mut Vec<u8>, unsynced: &[Change], rng: &mut Rng) {
    let chance = [0, 100, 500, 900, 1000][rng.below(5) as usize];
    write_sectors(durable, unsynced, rng, chance);
}

fn write_sectors(durable: &mut Vec<u8>, unsynced: &[Change], rng: &mut Rng, chance: u64) {
    for change in unsynced {
        match change {
            Change::Len(len) if rng.hits(chance) => durable.resize(*len as usize, 0),
            Change::Len(_) => {}
            Change::Write(offset, data) => {
                let mut at = 0;
                while at < data.len() {
                    let from = *offset as usize + at;
                    let len = (SECTOR - from % SECTOR).min(data.len() - at);
                    if rng.hits(chance) {
                        durable.resize(durable.len().max(from + len), 0);
                        durable[from..from + len].copy_from_slice(&data[at..at + len]);
                    }
                    at += len;
                }
            }
        }
    }
}

impl Sim {
    fn find(&self, path: &Path) -> io::Result<Id> {
        let mut at = 0;
        for part in path.components() {
            if let Component::Normal(name) = part {
                at = *self.folders.get(&at).ok_or_else(gone)?.now.get(&*name.to_string_lossy()).ok_or_else(gone)?;
            }
        }
        Ok(at)
    }

    fn folder_of(&mut self, path: &Path) -> io::Result<(&mut Folder, String)> {
        let id = self.find(path.parent().ok_or_else(gone)?)?;
        let name = path.file_name().ok_or_else(gone)?.to_string_lossy().into_owned();
        Ok((self.folders.get_mut(&id).ok_or_else(gone)?, name))
    }

    fn link(&mut self, path: &Path, id: Id) -> io::Result<()> {
        let (folder, name) = self.folder_of(path)?;
        folder.unsynced.push((Some((name.clone(), id)), None));
        folder.now.insert(name, id);
        Ok(())
    }

    fn new_id(&mut self) -> Id {
        self.next_id += 1;
        self.next_id
    }

    /// What all files that have a name take.
    fn taken(&self) -> u64 {
        let named = self.folders.values().flat_map(|f| f.now.values());
        named.filter_map(|id| self.files.get(id)).map(|f| f.now.len() as u64).sum()
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change(|sim| {
            if sim.find(path).is_err() {
                let id = sim.new_id();
                sim.folders.insert(id, Folder::default());
                sim.link(path, id)?;
            }
            Ok(())
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let sim = self.sim.lock();
        let id = sim.find(dir)?;
        Ok(sim.folders.get(&id).ok_or_else(gone)?.now.keys().cloned().collect())
    }

    fn create(&self, path: &Path, room: u64, _: Fill) -> io::Result<Arc<dyn DiskFile>> {
        self.change(|sim| {
            if sim.faults.space.is_some_and(|space| sim.taken() + room > space) {
                self.hooks.seen.send_modify(|seen| seen.refused += 1);
                return Err(io::ErrorKind::StorageFull.into());
            }
            let id = sim.new_id();
            let zeros = vec![0; room as usize];
            sim.files.insert(id, FileState { now: zeros.clone(), durable: zeros, unsynced: Vec::new() });
            sim.link(path, id)?;
            Ok(Arc::new(SimFile { disk: self.clone(), id }) as Arc<dyn DiskFile>)
        })
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let sim = self.sim.lock();
        let id = sim.find(path)?;
        sim.files.get(&id).ok_or_else(gone)?;
        Ok(Arc::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|sim| {
            assert_eq!(from.parent(), to.parent(), "renames stay in one folder");
            let id = sim.find(from)?;
            let (folder, from) = sim.folder_of(from)?;
            let change = (Some((to.file_name().ok_or_else(gone)?.to_string_lossy().into_owned(), id)), Some(from));
            folder.unsynced.push(change.clone());
            apply(&mut folder.now, change);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|sim| {
            sim.find(path)?;
            let (folder, name) = sim.folder_of(path)?;
            folder.unsynced.push((None, Some(name.clone())));
            folder.now.remove(&name);
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut held = self.hooks.held.lock();
        if *held {
            self.hooks.seen.send_modify(|seen| seen.held += 1);
            self.hooks.released.wait_while(&mut held, |held| *held);
        }
        drop(held);
        self.change(|sim| {
            let id = sim.find(dir)?;
            let folder = sim.folders.get_mut(&id).ok_or_else(gone)?;
            folder.unsynced.clear();
            folder.durable = folder.now.clone();
            Ok(())
        })
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.sim.lock().files.get(&self.id).ok_or_else(gone)?.now.len() as u64)
    }

    fn read(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<()> {
        let sim = self.disk.sim.lock();
        let now = &sim.files.get(&self.id).ok_or_else(gone)?.now;
        let from = (offset as usize).min(now.len());
        into.extend_from_slice(&now[from..(from + len).min(now.len())]);
        Ok(())
    }

    fn read_cached(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<bool> {
        if self.disk.sim.lock().rng.hits(500) {
            return Ok(false);
        }
        self.read(into, offset, len)?;
        Ok(true)
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.change(|sim| {
            let Sim { files, rng, faults, .. } = sim;
            let file = files.get_mut(&self.id).ok_or_else(gone)?;
            let fails = rng.hits(faults.write);
            let done = if fails { rng.below(data.len() as u64) as usize } else { data.len() };
            let from = offset as usize;
            file.now.resize(file.now.len().max(from + done), 0);
            file.now[from..from + done].copy_from_slice(&data[..done]);
            file.unsynced.push(Change::Write(offset, data[..done].to_vec()));
            if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.change(|sim| {
            let file = sim.files.get_mut(&self.id).ok_or_else(gone)?;
            file.now.resize(len as usize, 0);
            file.unsynced.push(Change::Len(len));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.hooks.seen.send_modify(|seen| seen.syncs += 1);
        self.disk.change(|sim| {
            let Sim { files, rng, faults, .. } = sim;
            let file = files.get_mut(&self.id).ok_or_else(gone)?;
            let unsynced = std::mem::take(&mut file.unsynced);
            if rng.hits(faults.sync) {
                reach_disk(&mut file.durable, &unsynced, rng);
                return Err(io::Error::other("injected: the sync failed"));
            }
            write_sectors(&mut file.durable, &unsynced, rng, 1000);
            Ok(())
        })
    }

    fn drop_cache(&self) {}
}
