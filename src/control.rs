//! What supervisor, zygote and worker tell each other: one JSON message a packet over a seqpacket socket pair.
//!
//! The end of the stream is a message too: the process at the other end is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::MsgFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use crate::config::Settings;
use crate::exit::{Code, Failure};
use crate::os;

/// The descriptor numbers under which a zygote finds what its supervisor gives it.
pub const CONTROL_FD: i32 = 3;
pub const SCOREBOARD_FD: i32 = 4;
pub const SITE_METRICS_FD: i32 = 5;
/// The first of the listening sockets, in the order of [`Launch::listeners`].
pub const LISTENERS_FD: i32 = 6;

/// The largest message: settings with a long `PYTHONPATH` and environment, or a long traceback.
const LIMIT: usize = 128 * 1024;

/// A folder with a script that declares a WSGI application.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Site {
    /// The name of the folder: labels logs and metrics.
    pub name: String,
    pub folder: std::path::PathBuf,
}

/// What a zygote, and each worker forked from it, has to know: the first message on its control socket.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Launch {
    pub settings: Settings,
    pub site: Site,
    pub generation: u64,
    /// Import the site in the zygote, before the forks.
    pub preload: bool,
    /// The workers that this site runs when all is well, for `wsgi.multiprocess`.
    pub workers: usize,
    /// Slots of the scoreboard.
    pub slots: usize,
    /// What each inherited listening socket is bound to.
    pub listeners: Vec<Bound>,
}

/// The address of a listening socket.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Bound {
    Tcp(std::net::SocketAddr),
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Bound::Tcp(address) => write!(f, "{address}"),
            Bound::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why the import of a site did not give an application.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct ImportError {
    /// One sentence with a remedy; the traceback is in the log already.
    pub advice: String,
    pub code: Code,
}

impl From<Failure> for ImportError {
    fn from(failure: Failure) -> Self {
        ImportError { advice: failure.message, code: failure.code }
    }
}

/// Supervisor → zygote, after [`Launch`].
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum ToZygote {
    /// Fork a worker for this slot of the scoreboard; its control socket comes with the message.
    Fork { slot: usize },
}

/// Zygote → supervisor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum FromZygote {
    /// The site's packages are being installed; said again every few seconds for as long as it takes.
    Installing,
    /// Workers can be forked.
    Ready,
    /// The import left what a fork would break (threads, open sockets); workers must import for themselves.
    Unforkable(Vec<String>),
    ImportFailed(ImportError),
    ForkFailed {
        slot: usize,
        error: String,
    },
}

/// Supervisor → worker.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum ToWorker {
    /// Finish what was taken, then leave. `backlog`: accept first what waits on the sockets, for nobody else will.
    Drain { backlog: bool },
}

/// Worker → supervisor.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub enum FromWorker {
    /// Forked; its process id.
    Started {
        pid: i32,
    },
    /// Accepts requests.
    Ready,
    /// Accepts no more connections.
    Draining,
    /// Somebody sent it SIGTERM.
    Terminated,
    ImportFailed(ImportError),
}

/// Sends a message without descriptors.
pub fn tell<M: Serialize>(socket: &OwnedFd, message: &M) -> io::Result<()> {
    Ok(os::send(socket.as_fd(), &serde_json::to_vec(message)?, &[])?)
}

/// A blocking end, for the zygote.
pub struct Channel(OwnedFd);

impl Channel {
    pub fn new(fd: OwnedFd) -> Self {
        Channel(fd)
    }

    pub fn send<M: Serialize>(&self, message: &M) -> io::Result<()> {
        tell(&self.0, message)
    }

    /// The next message and its descriptors; `None` when the other end is gone.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut buffer = vec![0; LIMIT];
        loop {
            match os::receive(self.0.as_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) | Ok((0, _)) => return Ok(None),
                Err(error) => return Err(error.into()),
                Ok((size, fds)) => return Ok(Some((serde_json::from_slice(&buffer[..size])?, fds))),
            }
        }
    }

    /// Waits until `fd` can be read or has ended, for at most `patience`; tells whether it has. The end of this channel is an
    /// error: nobody waits for the result any more.
    pub fn wait_beside(&self, fd: Option<BorrowedFd>, patience: Duration) -> io::Result<bool> {
        // Without events only the end is reported.
        let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::empty())];
        fds.extend(fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match nix::poll::poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
            Ok(_) if fds[0].any() == Some(true) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(_) => Ok(fds.get(1).and_then(PollFd::any) == Some(true)),
        }
    }

    pub fn into_inner(self) -> OwnedFd {
        self.0
    }
}

/// An end on a tokio runtime.
pub struct AsyncChannel(AsyncFd<OwnedFd>);

impl AsyncChannel {
    /// Must be called within a runtime. Leaves the descriptor's blocking mode alone: both ends of a fork may hold it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        os::watch(fd).map(AsyncChannel)
    }

    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd]) -> io::Result<()> {
        Ok(os::send(self.0.as_fd(), &serde_json::to_vec(message)?, fds)?)
    }

    /// The next message; `None` when the other end is gone. Cancel safe.
    pub async fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<M>> {
        let mut buffer = vec![0; LIMIT];
        loop {
            let mut ready = self.0.readable().await?;
            match os::receive(self.0.as_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) | Ok((0, _)) => return Ok(None),
                Err(error) => return Err(error.into()),
                Ok((size, _)) => return Ok(Some(serde_json::from_slice(&buffer[..size])?)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_boundaries_and_the_end_is_seen() {
        let (a, b) = os::seqpacket_pair().unwrap();
        let (a, b) = (Channel::new(a), Channel::new(b));
        a.send(&FromZygote::Ready).unwrap();
        a.send(&FromZygote::Unforkable(vec!["thread \"x\"".into()])).unwrap();
        assert!(matches!(b.receive().unwrap(), Some((FromZygote::Ready, _))));
        assert!(matches!(b.receive().unwrap(), Some((FromZygote::Unforkable(why), _)) if why.len() == 1));
        drop(a);
        assert!(b.receive::<FromZygote>().unwrap().is_none());
    }

    #[test]
    fn a_wait_ends_with_what_comes_or_with_the_channel() {
        let (a, b) = os::seqpacket_pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let channel = Channel::new(a);
        let wait = |patience| channel.wait_beside(Some(reader.as_fd()), Duration::from_secs(patience));
        assert!(!wait(0).unwrap());
        io::Write::write_all(&mut writer, b"x").unwrap();
        assert!(wait(60).unwrap());
        drop(b);
        assert!(wait(60).is_err());
    }

    #[test]
    fn descriptors_travel_with_a_message() {
        let (a, b) = os::seqpacket_pair().unwrap();
        let (c, d) = os::seqpacket_pair().unwrap();
        os::send(a.as_fd(), &serde_json::to_vec(&ToZygote::Fork { slot: 1 }).unwrap(), &[c.as_fd()]).unwrap();
        drop(c);
        let (_, fds) = Channel::new(b).receive::<ToZygote>().unwrap().unwrap();
        Channel::new(fds.into_iter().next().unwrap()).send(&FromWorker::Ready).unwrap();
        assert!(matches!(Channel::new(d).receive().unwrap(), Some((FromWorker::Ready, _))));
    }
}
