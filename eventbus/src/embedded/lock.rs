//! A data directory belongs to one process at a time, and says which version of the format it has.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::OpenError;

/// The version of the format that this evoke writes.
pub(super) const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "evoke embedded bus, format ";

/// Holds the directory until dropped.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the directory.
    pub(super) fn take(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("LOCK");
        let io = |source| OpenError::Io { path: path.clone(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(OpenError::InUse { dir: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}

/// What the `FORMAT` file holds.
pub(super) fn format_text() -> String {
    format!("{FORMAT_PREFIX}{FORMAT}\n")
}

/// Checks what the `FORMAT` file holds.
pub(super) fn check_format(dir: &Path, text: &str) -> Result<(), OpenError> {
    let found = text.strip_prefix(FORMAT_PREFIX).and_then(|rest| rest.trim_end().parse::<u32>().ok());
    match found {
        Some(FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(OpenError::Newer { dir: dir.to_owned(), found, supported: FORMAT }),
        _ => Err(OpenError::Damaged { path: dir.join("FORMAT"), what: "does not name a format".into() }),
    }
}
