//! What the embedded bus asks of a file system, so that tests can put one in its place that forgets what was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A file system. Paths are absolute; nothing is durable before the file, and the folder that names it, are synced.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Makes a folder; one that is there already is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a new file of `room` bytes that all read as zero, and takes the space for them now.
    fn create(&self, path: &Path, room: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file to read and write it.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file or folder, over one that is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// How the space of a new file is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Reserved only: quick to make, but each later sync also records which blocks are in use.
    Reserve,
    /// Written with zeros: later syncs write nothing but data.
    Zeros,
}

/// An open file.
pub(crate) trait DiskFile: Send + Sync + Debug {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Appends up to `len` bytes from `offset` on to `into`; fewer only at the end of the file.
    fn read(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<()>;
    /// As `read`, but only what costs no wait; false, and nothing read, where it would.
    fn read_cached(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<bool>;
    /// Writes all of `data` at `offset`.
    fn write(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file or makes it longer.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Asks that the next read comes from the disk itself.
    fn drop_cache(&self);
}

/// The file system of the machine.
#[derive(Debug)]
pub(crate) struct OsDisk;

const ZEROS: &[u8] = &[0; 256 * 1024];
/// A zeroed file is synced in pieces of this size, so that a commit beside it never waits for all of it.
const ZEROS_PER_SYNC: u64 = 4 << 20;

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path, room: u64, fill: Fill) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        let filled = match fill {
            Fill::Reserve => reserve(&file, room),
            Fill::Zeros => write_zeros(&file, room),
        };
        if let Err(error) = filled.and_then(|()| file.sync_all()) {
            // The space of a file that could not be made whole is wanted back at once.
            drop(fs::remove_file(path));
            return Err(error);
        }
        Ok(Arc::new(OsFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OsFile(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, room: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, room) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(file, room),
        other => Ok(other?),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(file: &File, room: u64) -> io::Result<()> {
    write_zeros(file, room)
}

fn write_zeros(file: &File, room: u64) -> io::Result<()> {
    let mut at = 0;
    while at < room {
        let piece = usize::try_from(room - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..piece], at)?;
        at += piece as u64;
        if at % ZEROS_PER_SYNC == 0 {
            file.sync_data()?;
        }
    }
    Ok(())
}

#[derive(Debug)]
struct OsFile(File);

impl DiskFile for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<()> {
        let start = into.len();
        into.resize(start + len, 0);
        let mut done = 0;
        while done < len {
            match self.0.read_at(&mut into[start + done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        into.truncate(start + done);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn read_cached(&self, into: &mut Vec<u8>, offset: u64, len: usize) -> io::Result<bool> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let start = into.len();
        into.resize(start + len, 0);
        let buffer = io::IoSliceMut::new(&mut into[start..]);
        let done = match preadv2(&self.0, &mut [buffer], offset, ReadWriteFlags::NOWAIT) {
            Ok(done) => done,
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        into.truncate(start + done);
        Ok(done > 0)
    }

    #[cfg(not(target_os = "linux"))]
    fn read_cached(&self, _: &mut Vec<u8>, _: u64, _: usize) -> io::Result<bool> {
        Ok(false)
    }

    fn write(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn drop_cache(&self) {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::fs::fadvise(&self.0, 0, None, rustix::fs::Advice::DontNeed) {
            tracing::debug!(%error, "a file could not be dropped from memory");
        }
    }
}
