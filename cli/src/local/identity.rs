//! Who this evoke is to the systems it reads from and to other processes: a name that lives in the data directory, so that what it
//! had taken and not settled is its own again after a restart.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use evoke_eventbus::subscription::sharing::beats::Place;

const NAME: &str = "INSTANCE";
const LOCK: &str = "LOCK";

/// A data directory's name, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The name that the directory holds.
    pub(crate) name: Arc<str>,
    /// The directory, and the machine it is on.
    pub(crate) place: Place,
    _lock: File,
}

impl Identity {
    /// Takes the data directory, which gets a name at the first start.
    ///
    /// # Errors
    /// When the directory cannot be made, read or written, or another process has it.
    pub(crate) fn take(data_dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(data_dir)?;
        let lock = lock(&data_dir.join(LOCK))?;
        let directory = fs::canonicalize(data_dir)?.to_string_lossy().into();
        let place = Place { host: host(), directory };
        Ok(Self { name: name(&data_dir.join(NAME))?, place, _lock: lock })
    }
}

fn lock(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            let pid = pid.trim();
            return Err(io::Error::other(format!(
                "it is in use by another evoke (process {pid}): stop that one, or give this one another --data-dir"
            )));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

fn name(path: &Path) -> io::Result<Arc<str>> {
    match fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let name = format!("evoke-{}", uuid::Uuid::now_v7().simple());
    let mut file = File::create(path)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    Ok(name.into())
}

/// This machine's name, for people and to tell a restart from a copy.
fn host() -> Arc<str> {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    if name.trim().is_empty() { "an unnamed machine".into() } else { name.trim().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_name_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = Identity::take(&one.path().join("data")).unwrap().name;
        assert_eq!(Identity::take(&one.path().join("data")).unwrap().name, name);
        assert_ne!(Identity::take(two.path()).unwrap().name, name);
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::take(dir.path()).unwrap();
        let error = Identity::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data-dir"), "{error}");
        drop(first);
        Identity::take(dir.path()).unwrap();
    }
}
