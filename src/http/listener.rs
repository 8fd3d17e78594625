//! A listening socket, of which supervisor, zygote and workers each have a copy.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::control::Bound;
use crate::os;

/// A listening socket of either family, whose connections are taken here.
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    bound: Bound,
}

impl Listener {
    /// Takes over an inherited listening socket. Must be called on the runtime that will use it.
    pub fn new(fd: OwnedFd, bound: &Bound) -> io::Result<Self> {
        let socket = SockRef::from(&fd);
        socket.set_nonblocking(true)?;
        if let Bound::Tcp(_) = bound {
            // Connections inherit it. Nagle's algorithm would hold back the blocks of a stream.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Listener { socket: os::watch(fd)?, bound: bound.clone() })
    }

    /// The next connection.
    pub async fn accept(&self) -> io::Result<Accepted> {
        self.accept_after(std::future::ready::<()>).await
    }

    /// The next connection, but for those that others take during the `pause` that comes before each look.
    pub async fn accept_after<P: Future>(&self, pause: impl Fn(()) -> P) -> io::Result<Accepted> {
        loop {
            let mut ready = self.socket.readable().await?;
            pause(()).await;
            if let Ok(accepted) = ready.try_io(|_| self.accept_now()) {
                return accepted;
            }
        }
    }

    /// A connection that waits; [`io::ErrorKind::WouldBlock`] if none does. The kernel is asked, and not the runtime, which does not know of
    /// connections that came since it last looked.
    pub fn accept_now(&self) -> io::Result<Accepted> {
        let (socket, peer) = acceptfrom_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match &self.bound {
            Bound::Tcp(address) => {
                let stream = std::net::TcpStream::from(socket);
                let peer = peer.and_then(|peer| peer.try_into().ok()).ok_or(io::ErrorKind::InvalidData)?;
                // An address that stands for several does not say which one the client has taken.
                let local = if address.ip().is_unspecified() { stream.local_addr()? } else { *address };
                Ok(Accepted::Tcp(TcpStream::from_std(stream)?, peer, Bound::Tcp(local)))
            }
            Bound::Unix(_) => {
                let stream = std::os::unix::net::UnixStream::from(socket);
                Ok(Accepted::Unix(UnixStream::from_std(stream)?, self.bound.clone()))
            }
        }
    }
}

/// A connection, who made it, and where.
pub enum Accepted {
    Tcp(TcpStream, SocketAddr, Bound),
    Unix(UnixStream, Bound),
}

/// A connection of either family.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Accepted {
    pub fn into_stream(self) -> Box<dyn Stream> {
        match self {
            Accepted::Tcp(stream, ..) => Box::new(stream),
            Accepted::Unix(stream, _) => Box::new(stream),
        }
    }
}
