//! The wall clock of evoke, which a test sets while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::case::Skipped;
use crate::evoke::Run;

/// The wall clock of evoke, through libfaketime.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    file: PathBuf,
}

impl FakeClock {
    /// A clock that is right, kept in `folder`.
    ///
    /// # Errors
    /// Where there is no libfaketime.
    pub fn new(folder: &Path) -> Result<Self, Skipped> {
        let library =
            PathBuf::from(format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH));
        if !library.is_file() {
            return Err(Skipped::because("no libfaketime (apt-get install faketime)"));
        }
        let clock = Self { library, file: folder.join("clock") };
        clock.set("+0");
        Ok(clock)
    }

    /// Sets it to so much before or after the true one.
    pub fn set(&self, offset: &str) {
        let partial = self.file.with_extension("new");
        fs::write(&partial, offset).unwrap();
        fs::rename(partial, &self.file).unwrap();
    }

    /// Has evoke run by this clock.
    pub fn wear(&self, run: Run) -> Run {
        run.env("LD_PRELOAD", self.library.to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            // A step of the wall clock leaves the monotonic one alone.
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
    }
}
