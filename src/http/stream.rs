//! The way of a streamed response from an app thread to the I/O thread: bounded, and cut when either side gives up.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// An app thread waits when this much is on its way to the client ...
const HIGH: usize = 256 * 1024;
/// ... until no more than this is left.
const LOW: usize = 64 * 1024;

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<End>,
    /// The response's body was dropped: the client is gone.
    abandoned: bool,
    waker: Option<Waker>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    /// The site failed on the way: the client must be able to tell.
    Cut,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    space: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Sender::send`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// Taken, but the app thread should wait for [`Sender::room`] before it makes more.
    Full,
    /// Nobody reads any more.
    Abandoned,
}

/// The app thread's end. Dropped without [`Sender::finish`], it cuts the response.
pub struct Sender(Arc<Shared>);

/// The I/O thread's end.
pub struct Receiver(Arc<Shared>);

pub fn channel() -> (Sender, Receiver) {
    let shared = Arc::new(Shared::default());
    (Sender(shared.clone()), Receiver(shared))
}

impl Sender {
    /// Hands on one block. The I/O thread sends it while the app thread makes the next (PEP 3333, "Buffering and Streaming").
    pub fn send(&self, chunk: Bytes) -> Sent {
        let mut state = self.0.lock();
        if state.abandoned {
            return Sent::Abandoned;
        }
        state.bytes += chunk.len();
        state.chunks.push_back(chunk);
        let full = state.bytes >= HIGH;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if full { Sent::Full } else { Sent::Taken }
    }

    /// What to wait on after [`Sent::Full`].
    pub fn room(&self) -> Room {
        Room(self.0.clone())
    }

    pub fn finish(self, end: End) {
        self.end(end);
    }

    fn end(&self, end: End) {
        let mut state = self.0.lock();
        state.end.get_or_insert(end);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }
}

/// Room for more of a stream.
pub struct Room(Arc<Shared>);

impl Room {
    /// Blocks until the client has taken most of what was sent, or is gone.
    pub fn wait(&self) {
        let state = self.0.lock();
        let busy = |state: &mut State| state.bytes > LOW && !state.abandoned;
        drop(self.0.space.wait_while(state, busy).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end(End::Cut);
    }
}

impl Receiver {
    /// The next block, or how the stream ended.
    pub fn poll_next(&self, cx: &mut Context) -> Poll<Result<Bytes, End>> {
        let mut state = self.0.lock();
        let Some(chunk) = state.chunks.pop_front() else {
            return match state.end {
                Some(end) => Poll::Ready(Err(end)),
                None => {
                    state.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let before = state.bytes;
        state.bytes -= chunk.len();
        if before > LOW && state.bytes <= LOW {
            self.0.space.notify_one();
        }
        Poll::Ready(Ok(chunk))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.chunks.clear();
        self.0.space.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_leaves_frees_the_writer() {
        let (sender, receiver) = channel();
        assert_eq!(sender.send(vec![0; HIGH].into()), Sent::Full);
        let waiting = std::thread::spawn(move || {
            sender.room().wait();
            sender.send(Bytes::from_static(b"x"))
        });
        drop(receiver);
        assert_eq!(waiting.join().unwrap(), Sent::Abandoned);
    }

    #[test]
    fn a_writer_that_is_dropped_cuts() {
        let mut cx = Context::from_waker(Waker::noop());
        let (sender, receiver) = channel();
        assert_eq!(receiver.poll_next(&mut cx), Poll::Pending);
        sender.send(Bytes::from_static(b"x"));
        drop(sender);
        assert_eq!(receiver.poll_next(&mut cx), Poll::Ready(Ok(Bytes::from_static(b"x"))));
        assert_eq!(receiver.poll_next(&mut cx), Poll::Ready(Err(End::Cut)));
    }
}
