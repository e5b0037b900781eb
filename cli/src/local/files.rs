//! Manifest files: found, in order, and read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evoke_api::limits;
use evoke_api::manifest::{Diagnostic, SourceFile};

/// Files that are read from a folder.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// What is come upon where manifests are looked for.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A folder, by its real path, before it is listed.
    Folder(&'a Path),
    /// A symbolic link in a folder, before it is followed.
    Link(&'a Path),
    /// A manifest.
    File(&'a Path),
    /// What may be a manifest or hold some, and cannot be read.
    Unreadable(&'a Path, io::Error),
}

/// Reads the files that `paths` name, folders recursively and in the order of their names, each file once.
pub(crate) fn read(paths: &[PathBuf]) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    let (mut files, mut diagnostics) = (Vec::new(), Vec::new());
    for path in paths {
        let before = (files.len(), diagnostics.len());
        find(path, &mut |found| match found {
            Found::File(file) => files.push(file.to_owned()),
            Found::Unreadable(what, error) => diagnostics.push(unreadable(what, &error, what == path)),
            Found::Folder(_) | Found::Link(_) => {}
        });
        if (files.len(), diagnostics.len()) == before {
            diagnostics.push(complaint(path, "holds no manifest".into(), "manifests end in .yaml, .yml or .json"));
        }
    }
    let mut seen = Vec::new();
    let mut sources = Vec::new();
    for path in files {
        if seen.contains(&path) {
            continue;
        }
        match read_file(&path) {
            Ok(source) => sources.push(source),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
        seen.push(path);
    }
    (sources, diagnostics)
}

/// The first of the paths that can be read only once, such as a pipe.
pub(crate) fn read_once(paths: &[PathBuf]) -> Option<&Path> {
    let is_read_once = |path: &&Path| fs::metadata(path).is_ok_and(|found| !found.is_dir() && !found.is_file());
    paths.iter().map(PathBuf::as_path).find(is_read_once)
}

/// Looks for manifests at a path that was named, and in it.
pub(super) fn find(path: &Path, visit: &mut dyn FnMut(Found<'_>)) {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => look_into(path, &mut Vec::new(), visit),
        Ok(_) => visit(Found::File(path)),
        Err(error) => visit(Found::Unreadable(path, error)),
    }
}

/// Folders in a named one whose names start with a dot are left alone, as are files of other kinds.
fn look_into(folder: &Path, above: &mut Vec<PathBuf>, visit: &mut dyn FnMut(Found<'_>)) {
    let real = match folder.canonicalize() {
        // A link that leads back up has nothing that is not found already.
        Ok(real) if above.contains(&real) => return,
        Ok(real) => real,
        Err(error) => return visit(Found::Unreadable(folder, error)),
    };
    visit(Found::Folder(&real));
    let listed: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect());
    let mut entries = match listed {
        Ok(entries) => entries,
        Err(error) => return visit(Found::Unreadable(folder, error)),
    };
    entries.sort();
    above.push(real);
    for entry in entries.iter().filter(|entry| !is_hidden(entry)) {
        let is_link = entry.is_symlink();
        if is_link {
            visit(Found::Link(entry));
        }
        match fs::metadata(entry) {
            Ok(found) if found.is_dir() => look_into(entry, above, visit),
            Ok(found) if found.is_file() && is_manifest(entry) => visit(Found::File(entry)),
            Ok(_) => {}
            // It has gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_link => {}
            Err(error) if is_manifest(entry) || !is_link => visit(Found::Unreadable(entry, error)),
            // A link that leads nowhere and would be no manifest.
            Err(_) => {}
        }
    }
    above.pop();
}

/// True for what a folder's manifests are called.
pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e))
}

/// True for what is left alone in a folder.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn read_file(path: &Path) -> Result<SourceFile, Diagnostic> {
    let unreadable =
        |error: io::Error| complaint(path, format!("cannot be read: {error}"), "check the file's permissions");
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > limits::MANIFEST_BYTES as u64 {
        return Err(complaint(path, format!("has {size} bytes"), "a manifest has at most 16 MiB"));
    }
    SourceFile::from_bytes(path.display().to_string(), fs::read(path).map_err(unreadable)?)
}

/// `named` is what the command line names.
fn unreadable(path: &Path, error: &io::Error, named: bool) -> Diagnostic {
    let hint = match error.kind() {
        _ if named => "name a manifest, or a folder that holds *.yaml, *.yml or *.json files",
        io::ErrorKind::PermissionDenied => "check its permissions, or keep it elsewhere",
        _ if path.is_symlink() => "it is a link that leads nowhere: correct it, or take it away",
        _ => "check its permissions, or keep it elsewhere",
    };
    complaint(path, format!("cannot be read: {error}"), hint)
}

fn complaint(path: &Path, message: String, hint: &str) -> Diagnostic {
    let mut diagnostic = Diagnostic::file(path.display().to_string(), message);
    diagnostic.hint = Some(hint.to_owned());
    diagnostic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_read_recursively_and_files_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("b/.git")).unwrap();
        for name in ["b/z.yml", "a.yaml", "b/c.json", "notes.md", "b/.git/x.yaml"] {
            fs::write(path(name), "kind: List").unwrap();
        }
        let (files, diagnostics) = read(&[dir.path().to_owned(), path("a.yaml")]);
        let names: Vec<_> = files.iter().map(|f| f.name.trim_start_matches(dir.path().to_str().unwrap())).collect();
        assert_eq!(names, ["/a.yaml", "/b/c.json", "/b/z.yml"]);
        assert_eq!(diagnostics, []);
    }

    #[test]
    fn an_odd_entry_hides_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).unwrap();
        fs::create_dir_all(path("elsewhere/sub")).unwrap();
        fs::create_dir(path("named")).unwrap();
        for name in ["named/a.yaml", "named/z.yaml", "elsewhere/sub/b.yaml", "elsewhere/c.txt"] {
            fs::write(path(name), "kind: List").unwrap();
        }
        link("nowhere", "named/dangling");
        link("nowhere", "named/dangling.yaml");
        link("around.yaml", "named/around.yaml");
        link("../elsewhere", "named/linked");
        link("..", "elsewhere/sub/up");
        link("../elsewhere/c.txt", "named/c.json");
        // Reading a pipe that nobody writes to would not end.
        let made = std::process::Command::new("mkfifo").arg(path("named/pipe.yaml")).status().unwrap();
        assert!(made.success());
        let (files, diagnostics) = read(&[path("named")]);
        let in_named = |name: &str| name.strip_prefix(path("named").to_str().unwrap()).unwrap().to_owned();
        let names: Vec<_> = files.iter().map(|f| in_named(&f.name)).collect();
        assert_eq!(names, ["/a.yaml", "/c.json", "/linked/sub/b.yaml", "/z.yaml"]);
        let said: Vec<_> = diagnostics.iter().map(|d| in_named(&d.file)).collect();
        assert_eq!(said, ["/around.yaml", "/dangling.yaml"], "{diagnostics:?}");
        assert!(diagnostics.iter().all(|d| d.is_error() && d.message.starts_with("cannot be read")), "{diagnostics:?}");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        fs::write(dir.path().join("latin1.yaml"), b"kind: \xe4").unwrap();
        let (files, diagnostics) =
            read(&[dir.path().join("nothing"), dir.path().join("empty"), dir.path().join("latin1.yaml")]);
        assert_eq!(files.len(), 0);
        let texts: Vec<_> = diagnostics.iter().map(|d| d.message.clone()).collect();
        assert_eq!(texts.len(), 3);
        assert!(texts[0].starts_with("cannot be read"), "{texts:?}");
        assert_eq!(texts[1], "holds no manifest");
        let pipe = dir.path().join("pipe.yaml");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read_once(&[dir.path().to_owned(), pipe.clone()]), Some(&*pipe));
        assert_eq!(read_once(&[dir.path().join("latin1.yaml"), dir.path().join("nothing")]), None);
    }
}
