//! Stands between a socket and hyper: passes on only bytes that [`Framing`] has judged, and keeps the time limits of clients.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::Connection;
use super::deadline::Deadline;
use super::framing::Framing;
use super::head::Rejection;
use super::service::has_begun;

/// What hyper parses in the place of a head that was refused; the service answers it with the refusal. No method is named `-`,
/// so that logs and metrics do not take it for a request that somebody sent.
const STAND_IN: &[u8] = b"- / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// A drained connection that stays idle this long is closed. A client in a keep-alive loop sends its next request sooner,
/// and is told `Connection: close` with the answer, so that no request meets a closed connection.
const DRAIN_IDLE: Duration = Duration::from_millis(500);
/// How long, and for how many bytes, the rest of a refused request is read and thrown away: closing a socket with unread
/// bytes resets it, and the client would lose the answer (RFC 9112 section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 4 * 1024 * 1024;

/// Head and body of a response that are no longer than this together are copied into one: `send` costs the kernel less than `writev`.
const SMALL: usize = 2048;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    pub header: Duration,
    /// Without a byte of the body, or of the response, moving.
    pub body: Duration,
    pub keepalive: Duration,
}

pub struct Guard<S> {
    io: S,
    connection: Arc<Connection>,
    timeouts: Timeouts,
    drain: watch::Receiver<bool>,
    /// Wakes the connection when the drain begins; polled once, since the waker stays the same.
    drained: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    framing: Framing,
    /// Read, but not passed on yet; the first `released` bytes may be.
    held: Vec<u8>,
    released: usize,
    refused: bool,
    /// Since when the present wait for bytes lasts.
    waiting: Option<Instant>,
    draining: Option<Instant>,
    reading: Deadline,
    stalled: Option<Instant>,
    writing: Deadline,
    lingering: Option<(Instant, usize)>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub fn new(
        io: S,
        connection: Arc<Connection>,
        timeouts: Timeouts,
        max_head: usize,
        drain: watch::Receiver<bool>,
    ) -> Self {
        Guard {
            io,
            connection,
            timeouts,
            drain,
            drained: None,
            framing: Framing::new(max_head),
            held: Vec::new(),
            released: 0,
            refused: false,
            waiting: None,
            draining: None,
            reading: Deadline::default(),
            stalled: None,
            writing: Deadline::default(),
            lingering: None,
        }
    }

    fn release(&mut self, buf: &mut ReadBuf) {
        let count = self.released.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.released -= count;
        if self.held.is_empty() && self.held.capacity() > 4096 {
            self.held = Vec::new();
        }
    }

    /// Reads straight into hyper's buffer and takes back what is not judged yet; true when hyper got something.
    fn pass(&mut self, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<bool>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let new = &buf.filled()[start..];
        if new.is_empty() {
            return Poll::Ready(Ok(true));
        }
        // With nothing held, these are the first bytes of a head, or more of a body: its time starts now.
        self.waiting = None;
        let in_head = self.framing.in_head();
        let (good, verdict) = self.framing.advance(new);
        self.held.extend_from_slice(&new[good..]);
        buf.set_filled(start + good);
        self.settle(good, in_head, verdict)?;
        Poll::Ready(Ok(good > 0))
    }

    /// Reads more behind a head that is held; false at the end of the stream.
    fn hold(&mut self, cx: &mut Context) -> Poll<io::Result<bool>> {
        let mut space = [0; 8192];
        let mut more = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut more))?;
        if more.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.held.extend_from_slice(more.filled());
        let in_head = self.framing.in_head();
        let (good, verdict) = self.framing.advance(&self.held);
        self.released = good;
        self.settle(good, in_head, verdict)?;
        Poll::Ready(Ok(true))
    }

    fn settle(&mut self, good: usize, in_head: bool, verdict: Result<(), Rejection>) -> io::Result<()> {
        // The time for a head runs on while it trickles in.
        if good > 0 || !in_head {
            self.waiting = None;
        }
        verdict.or_else(|rejection| self.refuse(rejection, good))
    }

    /// A bad head becomes a stand-in behind what is good; a bad body an error.
    fn refuse(&mut self, rejection: Rejection, good: usize) -> io::Result<()> {
        self.refused = true;
        self.connection.refuse(self.framing.heads(), rejection);
        if !self.framing.in_head() {
            self.held.truncate(self.released);
            // The good part has reached hyper; the error is for the next read.
            return if good > 0 { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidData, rejection.reason)) };
        }
        self.held.truncate(self.released);
        self.held.extend_from_slice(STAND_IN);
        self.released = self.held.len();
        Ok(())
    }

    fn is_draining(&mut self, cx: &mut Context) -> bool {
        if self.drained.is_none() {
            let mut drain = self.drain.clone();
            let drained = Box::pin(async move {
                let _ = drain.wait_for(|drain| *drain).await.is_ok();
            });
            // If it is over already, the answer below says so.
            let _ = self.drained.insert(drained).as_mut().poll(cx);
        }
        has_begun(&self.drain)
    }

    /// Nothing came: is the client's time over?
    fn wait(&mut self, cx: &mut Context) -> Poll<io::Result<()>> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        let started = self.framing.heads() > 0;
        // Old clients send an empty line behind a body.
        let idle = self.framing.in_head() && self.held.iter().all(|byte| b"\r\n".contains(byte));
        let limit = match (self.framing.in_head(), idle && started) {
            (true, true) => self.timeouts.keepalive,
            (true, false) => self.timeouts.header,
            (false, _) => self.timeouts.body,
        };
        let mut at = since + limit;
        if idle && self.is_draining(cx) {
            at = at.min(*self.draining.get_or_insert_with(Instant::now) + DRAIN_IDLE);
        }
        if !self.reading.passed(at, cx) {
            return Poll::Pending;
        }
        if idle {
            return Poll::Ready(Ok(()));
        }
        let reason = "the request did not arrive in time";
        self.refuse(Rejection { status: StatusCode::REQUEST_TIMEOUT, reason }, 0)?;
        // A stand-in waits to be released.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Guard<S> {
    fn drop(&mut self) {
        self.connection.flushed(true);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context, buf: &mut ReadBuf) -> Poll<io::Result<()>> {
        loop {
            if self.released > 0 {
                self.release(buf);
                return Poll::Ready(Ok(()));
            }
            if self.refused {
                // After a stand-in hyper reads no more; within a body it gets the error.
                return if self.framing.in_head() {
                    Poll::Pending
                } else {
                    Poll::Ready(Err(io::ErrorKind::InvalidData.into()))
                };
            }
            let step = if self.held.is_empty() { self.pass(cx, buf) } else { self.hold(cx).map_ok(|more| !more) };
            match step {
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.wait(cx),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    /// A client that does not read may not hold the response for ever.
    fn watch_write<T>(&mut self, cx: &mut Context, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let at = *self.stalled.get_or_insert_with(Instant::now) + self.timeouts.body;
        if self.writing.passed(at, cx) { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.watch_write(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context,
        parts: &[io::IoSlice],
    ) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let result = if length <= SMALL {
            let mut space = [MaybeUninit::uninit(); SMALL];
            let mut bytes = ReadBuf::uninit(&mut space);
            parts.iter().for_each(|part| bytes.put_slice(part));
            Pin::new(&mut self.io).poll_write(cx, bytes.filled())
        } else {
            Pin::new(&mut self.io).poll_write_vectored(cx, parts)
        };
        self.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        // hyper flushes here when its own buffer is empty: all that the site has sent is with the kernel.
        ready!(self.watch_write(cx, result))?;
        self.connection.flushed(false);
        Poll::Ready(if self.connection.is_cut() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.refused && self.framing.in_head() {
                return Poll::Ready(Ok(()));
            }
            self.lingering = Some((Instant::now() + LINGER, 0));
        }
        let (until, mut thrown) = self.lingering.unwrap_or((Instant::now(), 0));
        let mut space = [0; 16 * 1024];
        while thrown < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => thrown += buf.filled().len(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    self.lingering = Some((until, thrown));
                    return if self.reading.passed(until, cx) { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}
