//! The Unix socket in the data directory: whoever may write there may do everything, and nobody else may connect.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Its name in the data directory.
pub(crate) const FILE: &str = "evoke.sock";

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another evoke answers there.
    #[error("the data directory {} is in use by another evoke (process {pid}): stop that one, or give this one another --data-dir", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Its process.
        pid: String,
    },
    /// The operating system refuses.
    #[error("cannot listen on {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Whoever comes next replaces one that is left behind.
        _ = fs::remove_file(&self.path);
    }
}

/// Listens in the data directory. Must be called inside a runtime.
///
/// # Errors
/// [`SocketError`].
pub(crate) async fn listen(data_dir: &Path) -> Result<(UnixListener, Socket), SocketError> {
    let path = data_dir.join(FILE);
    if let Ok(other) = connect(data_dir).await {
        let pid = other.peer_cred().ok().and_then(|peer| peer.pid());
        let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        return Err(SocketError::InUse { dir: data_dir.to_owned(), pid });
    }
    let listener = bind(data_dir, &path).map_err(|source| SocketError::Io { path: path.clone(), source })?;
    Ok((listener, Socket { path }))
}

/// Binds in a folder that nobody else can enter, so that nobody connects before the permissions are right.
fn bind(data_dir: &Path, path: &Path) -> io::Result<UnixListener> {
    let private = data_dir.join(format!(".{FILE}.{}", std::process::id()));
    match fs::remove_dir_all(&private) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&private)?;
    let bound = short(&private).and_then(|(short, _dir)| {
        let listener = UnixListener::bind(short.join(FILE))?;
        fs::set_permissions(private.join(FILE), fs::Permissions::from_mode(0o600))?;
        fs::rename(private.join(FILE), path)?;
        Ok(listener)
    });
    fs::remove_dir_all(&private)?;
    bound
}

/// Connects to the evoke that runs on a data directory.
///
/// # Errors
/// When none does.
pub(crate) async fn connect(data_dir: &Path) -> io::Result<UnixStream> {
    let (short, _dir) = short(data_dir)?;
    UnixStream::connect(short.join(FILE)).await
}

/// The folder by a name that is short, as long as the file is held: a socket's path has at most 108 bytes, a folder's may be longer.
fn short(folder: &Path) -> io::Result<(PathBuf, File)> {
    let dir = File::open(folder)?;
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    let path = if by_descriptor.exists() { by_descriptor } else { folder.to_owned() };
    Ok((path, dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_is_no_obstacle_and_a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a".repeat(150));
        fs::create_dir(&data).unwrap();
        let (listener, socket) = listen(&data).await.unwrap();
        assert_eq!(fs::metadata(&socket.path).unwrap().permissions().mode() & 0o777, 0o600);
        let error = listen(&data).await.unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data-dir"), "{error}");
        // As a kill leaves it.
        std::mem::forget(socket);
        drop(listener);
        let (_listener, socket) = listen(&data).await.unwrap();
        connect(&data).await.unwrap();
        drop(socket);
        connect(&data).await.unwrap_err();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }
}
