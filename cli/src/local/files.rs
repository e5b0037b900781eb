//! Manifest files: found, in order, and read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evoke_api::manifest::{Diagnostic, SourceFile};

/// Files that are read from a folder.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// A larger file is no manifest.
const FILE_BYTES: u64 = 16 << 20;

/// Reads the files that `paths` name, folders recursively and in the order of their names, each file once.
pub(crate) fn read(paths: &[PathBuf]) -> (Vec<SourceFile>, Vec<Diagnostic>) {
    let (mut files, mut diagnostics) = (Vec::new(), Vec::new());
    for path in paths {
        let before = files.len();
        if let Err(error) = find(path, true, &mut files) {
            let hint = "name a manifest, or a folder that holds *.yaml, *.yml or *.json files";
            diagnostics.push(complaint(path, format!("cannot be read: {error}"), hint));
        } else if files.len() == before {
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

/// Folders below a named one whose names start with a dot are left alone, as are files of other kinds.
fn find(path: &Path, named: bool, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        if named || path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e)) {
            files.push(path.to_owned());
        }
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for entry in entries {
        let is_hidden = entry.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with('.'));
        if !is_hidden {
            find(&entry, false, files)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<SourceFile, Diagnostic> {
    let unreadable =
        |error: io::Error| complaint(path, format!("cannot be read: {error}"), "check the file's permissions");
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES {
        return Err(complaint(path, format!("has {size} bytes"), "a manifest has at most 16 MiB"));
    }
    SourceFile::from_bytes(path.display().to_string(), fs::read(path).map_err(unreadable)?)
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
    }
}
