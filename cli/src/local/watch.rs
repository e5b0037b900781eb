//! Tells when manifests change.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Editors and `git checkout` write several files at once, and some write a file in several steps.
const QUIET: Duration = Duration::from_millis(200);

/// Watches files and folders while it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    /// When the latest change was that nobody was told of.
    latest: watch::Sender<Option<Instant>>,
    _watcher: RecommendedWatcher,
}

impl Watch {
    /// Watches `paths`. A file is watched through its folder, since editors replace files rather than write them.
    ///
    /// # Errors
    /// When the operating system cannot watch a folder.
    pub(crate) fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let latest = watch::Sender::new(None);
        let roots: Vec<PathBuf> = paths.iter().map(|path| path.canonicalize()).collect::<Result<_, _>>()?;
        let watched = roots.clone();
        let tell = latest.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that events may be missing, so it counts as a change; reading a manifest does not.
            let is_change = event.map_or(true, |event| {
                !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(|path| concerns(&watched, path))
            });
            if is_change {
                tell.send_replace(Some(Instant::now()));
            }
        })?;
        for root in &roots {
            if root.is_dir() {
                watcher.watch(root, RecursiveMode::Recursive)?;
            } else {
                watcher.watch(root.parent().unwrap_or(root), RecursiveMode::NonRecursive)?;
            }
        }
        Ok(Self { latest, _watcher: watcher })
    }

    /// Resolves after a change, once nothing has changed for a moment. Safe to cancel: the moment is counted from the change, and
    /// a change that nobody was told of stays.
    pub(crate) async fn changed(&self) {
        let mut latest = self.latest.subscribe();
        loop {
            let change = *latest.borrow_and_update();
            let Some(at) = change else {
                // The sender is this watch's own, so it is still there.
                latest.changed().await.unwrap_or_default();
                continue;
            };
            let quiet = timeout_at(at + QUIET, latest.changed()).await.is_err();
            if quiet && self.latest.send_if_modified(|latest| *latest == change && latest.take().is_some()) {
                return;
            }
        }
    }
}

/// True for a path that is one of `roots`, or lies in one of them and not in a hidden folder, such as a data directory.
fn concerns(roots: &[PathBuf], path: &Path) -> bool {
    roots.iter().any(|root| match path.strip_prefix(root) {
        Ok(rest) => rest.components().all(|part| match part {
            Component::Normal(name) => !name.to_string_lossy().starts_with('.'),
            _ => true,
        }),
        Err(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn hidden_folders_and_neighbours_do_not_concern() {
        let roots = ["/m/a.yaml", "/m/dir"].map(PathBuf::from);
        for (path, concerned) in [
            ("/m/a.yaml", true),
            ("/m/b.yaml", false),
            ("/m/dir/x/y.yaml", true),
            ("/m/dir/.evoke/bus/log", false),
            ("/m/dir/.y.yaml.swp", false),
        ] {
            assert_eq!(concerns(&roots, Path::new(path)), concerned, "{path}");
        }
    }

    #[tokio::test]
    async fn a_replaced_file_is_a_change_and_reading_it_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "a").unwrap();
        let watch = Watch::new(std::slice::from_ref(&file)).unwrap();
        std::fs::write(dir.path().join("new"), "b").unwrap();
        std::fs::rename(dir.path().join("new"), &file).unwrap();
        // Whoever waits does other things more often than the quiet is long.
        let patient = async { while timeout(QUIET / 4, watch.changed()).await.is_err() {} };
        timeout(Duration::from_secs(10), patient).await.unwrap();
        std::fs::read(&file).unwrap();
        assert!(timeout(Duration::from_millis(500), watch.changed()).await.is_err());
    }
}
