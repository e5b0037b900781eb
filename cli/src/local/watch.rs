//! Tells when manifests change.
//!
//! Nothing is watched but folders, each by itself: those that hold manifests, and those on the way to them. A name may come to
//! mean something else at any step of that way, since a link is switched, or a folder moved over another one. The way is then
//! found and watched anew.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout_at};

use super::files::{self, Found};

/// Editors and `git checkout` write several files at once, and some write a file in several steps.
const QUIET: Duration = Duration::from_millis(200);
/// Changes that never rest are told of all the same.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two looks at what is to be watched.
const PAUSE: Duration = Duration::from_millis(50);
/// The first wait after a look that failed; it doubles up to a minute.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// A way with more links than this leads nowhere, as the operating system has it.
const LINKS: usize = 40;

/// Watches manifests, and the files that their credentials come from, while it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    paths: Vec<PathBuf>,
    credentials: BTreeSet<PathBuf>,
    changes: watch::Sender<Option<Change>>,
    watched: Watched,
    /// When it was last looked for what is to be watched.
    since: Instant,
    /// That failed, and is done again after this time. Until then something may change unseen.
    again: Option<Duration>,
}

/// What has changed that nobody was told of.
#[derive(Clone, Copy, Debug)]
struct Change {
    first: Instant,
    latest: Instant,
    /// The most that one of the changes was.
    news: News,
}

/// What something that happened to a file or folder is to those who read manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// Another text.
    Written,
    /// Something that came, went, or became something else: what is watched may not be what is read any more.
    Moved,
}

impl Watch {
    /// Watches `paths`, of which none has to be there.
    ///
    /// # Errors
    /// When the operating system cannot watch more folders.
    pub(crate) fn new(paths: &[PathBuf]) -> notify::Result<Self> {
        let (credentials, changes) = (BTreeSet::new(), watch::Sender::new(None));
        let mut watched = Watched::new(changes.clone())?;
        watched.renew(paths, &credentials)?;
        Ok(Self { paths: paths.to_vec(), credentials, changes, watched, since: Instant::now(), again: None })
    }

    /// Watches the files that credentials come from, from now on.
    pub(crate) fn credentials(&mut self, files: BTreeSet<PathBuf>) {
        let mut look = Look::new(&mut self.watched);
        for file in files.difference(&self.credentials) {
            look.credential(file);
        }
        self.credentials = files;
    }

    /// Resolves after a change, once nothing has changed for a moment, or the changes do not end. Safe to cancel: the moment is
    /// counted from the change, and a change that nobody was told of stays.
    pub(crate) async fn changed(&mut self) {
        let mut changes = self.changes.subscribe();
        loop {
            let change = *changes.borrow_and_update();
            // What is in a folder that has just come is not to be read before it rests either.
            let moved = change.filter(|change| change.news == News::Moved);
            let renewal = self.again.or(moved.map(|_| PAUSE)).map(|wait| self.since + wait);
            let due = change.map(|Change { first, latest, .. }| (latest + QUIET).min(first + PATIENCE));
            let now = Instant::now();
            if renewal.is_some_and(|at| now >= at) {
                self.renew();
                continue;
            }
            if due.is_some_and(|at| now >= at) {
                let told = self.changes.send_replace(None);
                if self.again.is_none() && told.is_some_and(|change| change.news == News::Moved) {
                    self.renew();
                }
                return;
            }
            // Another change, or the time to look: both are seen to above.
            match renewal.into_iter().chain(due).min() {
                Some(look) => drop(timeout_at(look, changes.changed()).await),
                // The sender is this watch's own, so it is still there.
                None => changes.changed().await.unwrap_or_default(),
            }
        }
    }

    /// Looks anew for what is to be watched.
    fn renew(&mut self) {
        // What moves from now on is to be looked for again.
        self.changes.send_if_modified(|change| {
            if let Some(change) = change {
                change.news = News::Written;
            }
            false
        });
        let looked = block_in_place(|| self.watched.renew(&self.paths, &self.credentials));
        self.since = Instant::now();
        match (looked, self.again.take()) {
            (Ok(()), None) => {}
            // What has changed unseen meanwhile is to be read.
            (Ok(()), Some(_)) => tell(&self.changes, News::Written),
            (Err(error), before) => {
                let wait = before.map_or(RETRY, |wait| RETRY_MAX.min(wait * 2));
                tracing::warn!(%error, retry_in = ?wait, "cannot watch the manifests where they are now");
                self.again = Some(wait);
            }
        }
    }
}

/// Adds what has happened to what nobody was told of.
fn tell(changes: &watch::Sender<Option<Change>>, news: News) {
    changes.send_modify(|change| {
        let latest = Instant::now();
        let before = change.unwrap_or(Change { first: latest, latest, news });
        *change = Some(Change { latest, news: before.news.max(news), ..before });
    });
}

/// Folders that are watched, and what of them is of concern.
#[derive(Debug)]
struct Watched {
    watcher: RecommendedWatcher,
    folders: HashSet<PathBuf>,
    scope: Arc<Mutex<Scope>>,
}

/// A look for what is to be watched. What is found is watched at once, beside what was before.
struct Look<'a> {
    watched: &'a mut Watched,
    /// What it has found.
    folders: HashSet<PathBuf>,
    scope: Scope,
}

/// What of the folders that are watched is of concern. All paths are real ones, but for the last step of each.
#[derive(Debug, Default)]
struct Scope {
    /// Folders whose manifests are read.
    folders: HashSet<PathBuf>,
    /// Files that are read whatever they are called.
    files: HashSet<PathBuf>,
    /// Links and folders on the way to those.
    steps: HashSet<PathBuf>,
}

impl Watched {
    /// Nothing is watched yet.
    fn new(changes: watch::Sender<Option<Change>>) -> notify::Result<Self> {
        let scope = Arc::new(Mutex::new(Scope::default()));
        let seen = Arc::clone(&scope);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that events may be missing.
            let news = event.map_or(Some(News::Moved), |event| seen.lock().news(&event));
            if let Some(news) = news {
                tell(&changes, news);
            }
        })?;
        Ok(Self { watcher, folders: HashSet::new(), scope })
    }

    /// Watches what these paths and files are now, and nothing else. Where that fails, what was watched before still is.
    fn renew(&mut self, paths: &[PathBuf], credentials: &BTreeSet<PathBuf>) -> notify::Result<()> {
        let mut look = Look::new(self);
        for path in paths {
            look.path(path)?;
        }
        for file in credentials {
            look.credential(file);
        }
        let Look { folders, scope, .. } = look;
        for folder in self.folders.difference(&folders) {
            // One that is not there any more is not watched any more either, which is an error here.
            drop(self.watcher.unwatch(folder));
        }
        self.folders = folders;
        *self.scope.lock() = scope;
        Ok(())
    }
}

impl<'a> Look<'a> {
    fn new(watched: &'a mut Watched) -> Self {
        Self { watched, folders: HashSet::new(), scope: Scope::default() }
    }

    /// Takes the manifests at a path that was named to be of concern.
    fn path(&mut self, path: &Path) -> notify::Result<()> {
        self.file(path)?;
        let mut looked = Ok(());
        files::find(path, &mut |found| {
            let look = match found {
                Found::Folder(folder) => self.folder(folder),
                Found::Link(link) if files::is_manifest(link) => self.file(link),
                Found::Link(link) => self.follow(link).map(drop),
                Found::File(_) | Found::Unreadable(..) => Ok(()),
            };
            if looked.is_ok() {
                looked = look;
            }
        });
        looked
    }

    /// Takes a file with a credential to be of concern. One that cannot be watched keeps nothing else from being.
    fn credential(&mut self, file: &Path) {
        if let Err(error) = self.file(file) {
            tracing::warn!(%error, file = %file.display(), "cannot watch the file for changes");
        }
    }

    /// Takes all manifests of a folder to be of concern.
    fn folder(&mut self, folder: &Path) -> notify::Result<()> {
        self.note(|scope| &mut scope.folders, folder);
        self.watch(folder)
    }

    /// Takes a file to be of concern, if it is one.
    fn file(&mut self, path: &Path) -> notify::Result<()> {
        if let Some(file) = self.follow(path)?.filter(|file| !file.is_dir()) {
            self.note(|scope| &mut scope.files, &file);
        }
        Ok(())
    }

    /// Watches every step of the way to a path, and returns where that really is, if it is there. Each folder is watched before it
    /// is looked into, so that nothing changes unseen.
    fn follow(&mut self, path: &Path) -> notify::Result<Option<PathBuf>> {
        let mut at = PathBuf::new();
        if path.is_relative() {
            at = std::env::current_dir().map_err(notify::Error::io)?;
        }
        let mut ahead = path.to_owned();
        let mut links = 0;
        loop {
            let mut parts = ahead.components();
            let Some(part) = parts.next() else { return Ok(Some(at)) };
            let rest = parts.as_path().to_owned();
            match part {
                Component::Normal(name) => {
                    let next = at.join(name);
                    self.note(|scope| &mut scope.steps, &next);
                    self.watch(&at)?;
                    if let Ok(target) = fs::read_link(&next) {
                        links += 1;
                        if links > LINKS {
                            return Ok(None);
                        }
                        ahead = target.join(rest);
                        continue;
                    }
                    if !next.exists() {
                        return Ok(None);
                    }
                    at = next;
                }
                Component::ParentDir => _ = at.pop(),
                Component::RootDir => at.push(part),
                Component::CurDir | Component::Prefix(_) => {}
            }
            ahead = rest;
        }
    }

    fn note(&mut self, paths: fn(&mut Scope) -> &mut HashSet<PathBuf>, path: &Path) {
        paths(&mut self.scope).insert(path.to_owned());
        paths(&mut self.watched.scope.lock()).insert(path.to_owned());
    }

    fn watch(&mut self, folder: &Path) -> notify::Result<()> {
        if !self.folders.insert(folder.to_owned()) {
            return Ok(());
        }
        // One that is watched already too: another folder may be in its place, and the system knows it from the one before.
        match self.watched.watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.watched.folders.insert(folder.to_owned());
                Ok(())
            }
            // What is gone, or closed to evoke, is seen to come back from the folder that holds it.
            Err(error) if !matches!(error.kind, ErrorKind::MaxFilesWatch) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Scope {
    fn news(&self, event: &notify::Event) -> Option<News> {
        match event.kind {
            // Reading changes nothing.
            EventKind::Access(_) => None,
            _ if event.need_rescan() => Some(News::Moved),
            kind => event.paths.iter().filter_map(|path| self.news_of(kind, path)).max(),
        }
    }

    fn news_of(&self, kind: EventKind, path: &Path) -> Option<News> {
        let is_listed = path.parent().is_some_and(|folder| self.folders.contains(folder)) && !files::is_hidden(path);
        let is_read = self.files.contains(path) || is_listed && files::is_manifest(path);
        // Editors write another file and move it to where the old one was: that changes nothing of what is watched.
        if matches!(kind, EventKind::Modify(ModifyKind::Data(_))) || is_read && is_now(path, fs::Metadata::is_file) {
            return is_read.then_some(News::Written);
        }
        // A link may come before what it leads to.
        let is_on_the_way = self.steps.contains(path)
            || self.folders.contains(path)
            || is_listed && is_now(path, |found| found.is_dir() || found.is_symlink());
        (is_read || is_on_the_way).then_some(News::Moved)
    }
}

/// What is at a path, and not where a link leads from there.
fn is_now(path: &Path, what: fn(&fs::Metadata) -> bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| what(&found))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use notify::event::{CreateKind, DataChange};
    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A folder with `m/a.yaml` in it.
    fn manifests() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("m")).unwrap();
        fs::write(dir.path().join("m/a.yaml"), "a").unwrap();
        dir
    }

    async fn tells(watch: &mut Watch, what: &str) {
        timeout(SOON, watch.changed()).await.unwrap_or_else(|_| panic!("nothing is told of {what}"));
    }

    async fn tells_nothing(watch: &mut Watch, what: &str) {
        assert!(timeout(2 * QUIET, watch.changed()).await.is_err(), "{what} is told of");
    }

    #[test]
    fn manifests_and_the_ways_to_them_are_of_concern() {
        let dir = manifests();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("m/sub")).unwrap();
        fs::create_dir_all(root.join("m/.hidden")).unwrap();
        fs::write(root.join("named.conf"), "").unwrap();
        symlink("../elsewhere/b.yaml", root.join("m/b.yaml")).unwrap();
        let paths = ["m", "named.conf"].map(|name| root.join(name));
        let mut watched = Watched::new(watch::Sender::new(None)).unwrap();
        watched.renew(&paths, &BTreeSet::new()).unwrap();
        symlink("../nothing", root.join("m/later")).unwrap();
        let scope = watched.scope.lock();
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let created = EventKind::Create(CreateKind::Any);
        for (name, of_writing, of_creating) in [
            ("m/a.yaml", Some(News::Written), Some(News::Written)),
            ("named.conf", Some(News::Written), Some(News::Written)),
            ("m/sub/gone.json", Some(News::Written), Some(News::Moved)),
            ("m/b.yaml", Some(News::Written), Some(News::Moved)),
            ("m/later", None, Some(News::Moved)),
            ("m/sub", None, Some(News::Moved)),
            ("m", None, Some(News::Moved)),
            ("elsewhere", None, Some(News::Moved)),
            ("other.conf", None, None),
            ("m/function.log", None, None),
            ("m/.hidden", None, None),
            ("m/.hidden/x.yaml", None, None),
            ("m/.a.yaml.swp", None, None),
        ] {
            let path = root.join(name);
            assert_eq!(scope.news_of(written, &path), of_writing, "{name} is written");
            assert_eq!(scope.news_of(created, &path), of_creating, "{name} is created");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_replaced_file_is_a_change_and_reading_it_is_none() {
        let dir = manifests();
        let file = dir.path().join("m/a.yaml");
        let mut watch = Watch::new(std::slice::from_ref(&file)).unwrap();
        fs::write(dir.path().join("new"), "b").unwrap();
        fs::rename(dir.path().join("new"), &file).unwrap();
        // Whoever waits does other things more often than the quiet is long.
        let patient = async { while timeout(QUIET / 4, watch.changed()).await.is_err() {} };
        timeout(SOON, patient).await.unwrap();
        fs::read(&file).unwrap();
        tells_nothing(&mut watch, "reading").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_folder_may_go_and_another_one_come() {
        let dir = manifests();
        let path = |name: &str| dir.path().join(name);
        let mut watch = Watch::new(&[path("m")]).unwrap();
        fs::remove_dir_all(path("m")).unwrap();
        tells(&mut watch, "its end").await;
        fs::create_dir_all(path("m/sub")).unwrap();
        tells(&mut watch, "its return").await;
        fs::write(path("m/sub/b.yaml"), "b").unwrap();
        tells(&mut watch, "what is new in it").await;
        fs::create_dir(path("other")).unwrap();
        tells_nothing(&mut watch, "a folder beside it").await;
        fs::rename(path("m"), path("old")).unwrap();
        fs::rename(path("other"), path("m")).unwrap();
        tells(&mut watch, "another one in its place").await;
        fs::write(path("m/c.yaml"), "c").unwrap();
        tells(&mut watch, "what is new in that").await;
        fs::write(path("old/sub/b.yaml"), "c").unwrap();
        tells_nothing(&mut watch, "what is in the old one").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn links_are_followed_where_they_lead_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        // As Kubernetes mounts a ConfigMap: a manifest is a link into a folder that is itself a link, which is switched.
        for version in ["..1", "..2"] {
            fs::create_dir_all(path("m").join(version)).unwrap();
            fs::write(path("m").join(version).join("a.yaml"), version).unwrap();
        }
        symlink("..1", path("m/..data")).unwrap();
        symlink("..data/a.yaml", path("m/a.yaml")).unwrap();
        symlink("m", path("current")).unwrap();
        let mut watch = Watch::new(&[path("current")]).unwrap();
        symlink("..2", path("m/..new")).unwrap();
        fs::rename(path("m/..new"), path("m/..data")).unwrap();
        tells(&mut watch, "the switch of a file").await;
        fs::write(path("m/..2/a.yaml"), "new").unwrap();
        tells(&mut watch, "what is written where the link leads now").await;
        fs::remove_dir_all(path("m/..1")).unwrap();
        tells_nothing(&mut watch, "what it led to before").await;
        fs::create_dir(path("n")).unwrap();
        symlink("n", path("next")).unwrap();
        fs::rename(path("next"), path("current")).unwrap();
        tells(&mut watch, "the switch of a folder").await;
        fs::write(path("n/b.yaml"), "b").unwrap();
        tells(&mut watch, "what is written in that").await;
        // A link that comes before what it leads to.
        symlink(path("late"), path("n/late")).unwrap();
        tells(&mut watch, "a link that leads nowhere").await;
        fs::create_dir(path("late")).unwrap();
        tells(&mut watch, "what it leads to").await;
        fs::write(path("late/c.yaml"), "c").unwrap();
        tells(&mut watch, "what is written in that too").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_saved_manifest_is_read_again_and_nothing_else_looked_for() {
        let dir = manifests();
        let path = |name: &str| dir.path().join(name);
        let mut watch = Watch::new(&[path("m")]).unwrap();
        let since = watch.since;
        fs::write(path("m/.a.yaml.new"), "b").unwrap();
        fs::rename(path("m/.a.yaml.new"), path("m/a.yaml")).unwrap();
        tells(&mut watch, "a manifest that is replaced").await;
        assert_eq!(watch.since, since);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_could_not_be_watched_is_looked_for_again() {
        let dir = manifests();
        let mut watch = Watch::new(&[dir.path().join("m")]).unwrap();
        let since = watch.since;
        watch.again = Some(PAUSE);
        tells(&mut watch, "what may have changed unseen").await;
        assert!(watch.again.is_none() && watch.since > since);
        tells_nothing(&mut watch, "it once more").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_looked_for_anew_is_watched_once() {
        let dir = manifests();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("m/sub")).unwrap();
        let mut watch = Watch::new(&[path("m")]).unwrap();
        let before = watch.watched.folders.clone();
        watch.renew();
        assert_eq!(watch.watched.folders, before);
        fs::remove_dir(path("m/sub")).unwrap();
        tells(&mut watch, "a folder that goes").await;
        assert!(before.len() == watch.watched.folders.len() + 1 && before.is_superset(&watch.watched.folders));
        fs::write(path("m/a.yaml"), "b").unwrap();
        tells(&mut watch, "what is written beside it").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn credentials_are_watched_wherever_they_are() {
        let dir = manifests();
        let mut watch = Watch::new(&[dir.path().join("m")]).unwrap();
        let files = BTreeSet::from([dir.path().join("secrets/token")]);
        watch.credentials(files);
        fs::create_dir(dir.path().join("secrets")).unwrap();
        tells(&mut watch, "their folder").await;
        fs::write(dir.path().join("secrets/token"), "t0ken").unwrap();
        tells(&mut watch, "the file").await;
        fs::write(dir.path().join("secrets/other"), "t0ken").unwrap();
        tells_nothing(&mut watch, "another file there").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_that_do_not_rest_are_told_of() {
        let dir = manifests();
        let mut watch = Watch::new(&[dir.path().join("m")]).unwrap();
        let write = async {
            let mut often = tokio::time::interval(QUIET / 10);
            for _ in 0..1000 {
                often.tick().await;
                fs::write(dir.path().join("m/function.log"), "line").unwrap();
                fs::write(dir.path().join("m/state.json"), "{}").unwrap();
            }
        };
        tokio::select! {
            () = write => panic!("nothing is told of"),
            () = tells(&mut watch, "a file that never rests") => {}
        }
    }
}
