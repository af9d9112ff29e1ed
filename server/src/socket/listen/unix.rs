//! A listener that is a file: one that a dead server left behind keeps the next from starting, and one that is removed
//! too easily takes a living server away from its clients.

use std::{
    fs::{self, Permissions},
    io,
    os::{
        linux::fs::MetadataExt as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

use super::Listener;
use crate::{config::Config, restart::Inherited};

/// The owner and its group may connect: a reverse proxy is given the server's group.
const MODE: u32 = 0o660;

/// A Unix listener and its file. Clones accept from one queue, and the file is removed with the last of them.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    listener: StdUnixListener,
    file: Arc<SocketFile>,
    /// The service manager holds it, too: it outlives us, with all that is in its queue.
    is_held: bool,
}

impl UnixSocket {
    /// Listens at `path`, in the place of a socket that nobody listens on any more.
    ///
    /// # Errors
    /// The path and the flag that sets it, with what stands in the way.
    pub(crate) fn bind(path: &Path, config: &Config) -> io::Result<Self> {
        let bound = || {
            remove_if_dead(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // Before `listen`, nobody can connect: not even those whom the umask would let.
            fs::set_permissions(path, Permissions::from_mode(MODE))?;
            socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
            Ok(Self::at(path.to_owned(), StdUnixListener::from(socket), false))
        };
        bound().map_err(|error: io::Error| {
            let text = format!("--listen-unix: cannot listen on {}: {error}", path.display());
            io::Error::new(error.kind(), text)
        })
    }

    /// A listener that was there before us. Its file is ours to remove, unless the service manager holds the socket, too.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub(super) fn inherited(socket: Inherited) -> io::Result<Self> {
        let listener = StdUnixListener::from(socket.fd);
        listener.set_nonblocking(true)?;
        // One without a path (an abstract address) has no file.
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
        Ok(Self::at(path, listener, socket.is_held))
    }

    fn at(path: PathBuf, listener: StdUnixListener, is_held: bool) -> Self {
        let identity = identity(&path);
        let file = SocketFile { path, identity, is_ours: AtomicBool::new(!is_held) };
        Self { listener, file: Arc::new(file), is_held }
    }

    pub(super) fn listener(&self) -> &StdUnixListener {
        &self.listener
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    pub(crate) fn path(&self) -> &Path {
        &self.file.path
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        let (listener, file) = (self.listener.try_clone()?, Arc::clone(&self.file));
        Ok(Self { listener, file, is_held: self.is_held })
    }

    pub(super) fn open(self) -> io::Result<Shared> {
        let listener = UnixListener::from_std(self.listener)?;
        Ok(Shared { listener, file: self.file, is_held: self.is_held })
    }
}

/// A [`UnixSocket`] in a runtime.
#[derive(Debug)]
pub(crate) struct Shared {
    listener: UnixListener,
    file: Arc<SocketFile>,
    is_held: bool,
}

impl Shared {
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _unnamed) = self.listener.accept().await?;
        Ok(stream)
    }

    pub(super) fn address(&self) -> String {
        self.listener.address()
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The file now is another process's.
    pub(super) fn hand_over(&self) {
        self.file.is_ours.store(false, Relaxed);
    }

    /// Who does not find the file cannot connect; those in the queue already are still accepted.
    pub(super) fn refuse_new(&self) {
        self.file.remove();
    }
}

/// The file of a Unix socket.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode: at the path there may be another server's file by now.
    identity: Option<(u64, u64)>,
    is_ours: AtomicBool,
}

impl SocketFile {
    /// Removes the file if it is ours and still there.
    fn remove(&self) {
        if !self.is_ours.swap(false, Relaxed)
            || self.identity.is_none()
            || identity(&self.path) != self.identity
        {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "the file of the Unix socket stays behind");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.st_dev(), metadata.st_ino()))
}

/// Makes room at `path`, if what is there is a socket without a server.
fn remove_if_dead(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Also where its queue is full, or we may not connect: somebody is there.
        Ok(_) | Err(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}
