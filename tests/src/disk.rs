//! A disk that a test fills.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use crate::SOON;
use crate::case::Skipped;
use crate::process::Program;

/// A small file system of its own, there as long as this is.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `at`, which must not be there yet.
    ///
    /// # Errors
    /// Where nothing may be mounted.
    pub async fn mount(at: PathBuf, size: &str) -> Result<Self, Skipped> {
        fs::create_dir(&at).unwrap();
        let options = format!("size={size},mode=700");
        let mount = Program::new("mount", "mount").args(["-t", "tmpfs", "-o", &options, "evoke-test"]).args([&at]);
        let (status, log) = mount.output(SOON).await;
        if !status.success() {
            return Err(Skipped::because(format!("may not mount a tmpfs: {}", log.text())));
        }
        Ok(Self { at })
    }

    /// Fills it to the last byte with a file, and returns the file. Once more, it takes what has become free since.
    pub fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let block = vec![1; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        path
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a process that is just being killed may still hold it.
        std::process::Command::new("umount").arg("-l").arg(&self.at).status().expect("umount is there, as mount was");
    }
}
