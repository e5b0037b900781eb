//! Temporary folders, all of one run below one root, and swept by the next run should this one be killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tempfile::TempDir;

const PREFIX: &str = "evoke-tests-";

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let base = std::env::temp_dir();
    sweep(&base);
    let root = base.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    root
});

fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another run may sweep at the same time.
            fs::remove_dir_all(entry.path()).unwrap_or_default();
        }
    }
}

/// A new folder, removed when dropped.
pub fn dir(name: &str) -> TempDir {
    tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&*ROOT).unwrap()
}

/// Copies a folder with all that is in it to a place where nothing is yet.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What is worth keeping between runs, such as downloaded servers: `EVOKE_TEST_CACHE`, else `~/.cache/evoke-tests`.
pub fn cache() -> PathBuf {
    std::env::var_os("EVOKE_TEST_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache/evoke-tests"),
        PathBuf::from,
    )
}

/// Removes all of this run's folders.
pub fn clean() {
    fs::remove_dir_all(&*ROOT).unwrap_or_default();
}
