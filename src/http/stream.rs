//! The way of a streamed response from an app thread to the I/O thread: bounded, and cut when either side gives up.
//!
//! Blocks wait in memory while the client keeps up. For one that does not, they go to a temporary file, so that slow clients hold no
//! app thread; only past the file's limit does the app thread wait for them.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

/// An app thread waits when this much is on its way to the client ...
const HIGH: usize = 512 * 1024;
/// ... until no more than this is left.
const LOW: usize = 64 * 1024;
/// A client that has not taken that much after this time is slow: what follows goes to the file.
const SLOW: Duration = Duration::from_millis(100);
/// What the file of one response may hold.
const FILE_LIMIT: u64 = 16 * 1024 * 1024;
/// What is read back from the file at once.
const FILE_BLOCK: usize = 128 * 1024;

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    file: Spill,
    end: Option<End>,
    /// The client was slow.
    slow: bool,
    /// The response's body was dropped: the client is gone.
    abandoned: bool,
    waker: Option<Waker>,
}

/// The part of a response that waits in a file without a name.
#[derive(Default)]
struct Spill {
    file: Option<File>,
    read: u64,
    written: u64,
}

impl Spill {
    fn is_empty(&self) -> bool {
        self.read == self.written
    }

    fn push(&mut self, chunk: &[u8]) -> io::Result<bool> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile()?),
        };
        file.write_all_at(chunk, self.written)?;
        self.written += chunk.len() as u64;
        Ok(true)
    }

    /// Reads on the I/O thread: so little, written so lately, is in the kernel's memory.
    fn pop(&mut self) -> io::Result<Bytes> {
        let size = (self.written - self.read).min(FILE_BLOCK as u64) as usize;
        let mut block = vec![0; size];
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        file.read_exact_at(&mut block, self.read)?;
        self.read += size as u64;
        if self.is_empty() {
            // It is filled anew from its start, and so never grows past its limit and a block.
            (self.read, self.written) = (0, 0);
        }
        Ok(block.into())
    }
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

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
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
        // What is in the file comes before this block.
        let behind_file = !state.file.is_empty();
        let spilled = if behind_file || state.slow && state.bytes >= LOW { state.file.push(&chunk) } else { Ok(false) };
        match spilled {
            Ok(true) => {}
            Err(ref error) if behind_file => {
                tracing::error!("a response is cut: its temporary file cannot be written: {error}");
                drop(state);
                self.0.end(End::Cut);
                return Sent::Abandoned;
            }
            // Without a folder for a file, memory is left.
            Ok(false) | Err(_) => {
                state.bytes += chunk.len();
                state.chunks.push_back(chunk);
            }
        }
        let full = if let Ok(true) = spilled { state.file.written >= FILE_LIMIT } else { state.bytes >= HIGH };
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
        self.0.end(end);
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.end(End::Cut);
    }
}

/// Room for more of a stream.
pub struct Room(Arc<Shared>);

impl Room {
    /// Blocks until the client has taken most of what was sent, has shown to be slow, or is gone.
    pub fn wait(&self) {
        let busy = |state: &mut State| !state.abandoned && (state.bytes > LOW || !state.file.is_empty());
        let mut state = self.0.lock();
        if !state.slow {
            let waited = self.0.space.wait_timeout_while(state, SLOW, busy);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.slow = state.bytes > LOW;
        }
        let full = |state: &mut State| {
            !state.abandoned && (state.file.written >= FILE_LIMIT || state.file.file.is_none() && state.bytes >= HIGH)
        };
        if state.slow && state.file.file.is_none() {
            // The first block for the file finds out whether there can be one.
            state.file.file = tempfile::tempfile().ok();
        }
        drop(self.0.space.wait_while(state, full).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Receiver {
    /// The next block, or how the stream ended.
    pub fn poll_next(&self, cx: &mut Context) -> Poll<Result<Bytes, End>> {
        let mut state = self.0.lock();
        if let Some(chunk) = state.chunks.pop_front() {
            let before = state.bytes;
            state.bytes -= chunk.len();
            let roomy = before > LOW && state.bytes <= LOW;
            // A thread that is woken under the lock would only wait for it.
            drop(state);
            if roomy {
                self.0.space.notify_one();
            }
            return Poll::Ready(Ok(chunk));
        }
        if !state.file.is_empty() {
            self.0.space.notify_one();
            return Poll::Ready(state.file.pop().map_err(|error| {
                tracing::error!("a response cannot be read back from its temporary file: {error}");
                End::Cut
            }));
        }
        match state.end {
            Some(end) => Poll::Ready(Err(end)),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.chunks.clear();
        state.file = Spill::default();
        self.0.space.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_leaves_frees_the_writer() {
        let (sender, receiver) = channel();
        while sender.send(vec![0; HIGH].into()) == Sent::Taken {}
        let waiting = std::thread::spawn(move || {
            loop {
                sender.room().wait();
                if sender.send(vec![0; HIGH].into()) == Sent::Abandoned {
                    return;
                }
            }
        });
        drop(receiver);
        waiting.join().unwrap();
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

    #[test]
    fn a_slow_reader_gets_every_byte_in_order_and_holds_nobody_up() {
        let (sender, receiver) = channel();
        let block = |number: usize| Bytes::from(vec![number as u8; 100_000]);
        for number in 0..100 {
            if sender.send(block(number)) == Sent::Full {
                sender.room().wait();
            }
        }
        sender.finish(End::Complete);
        let mut cx = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Ok(bytes)) = receiver.poll_next(&mut cx) {
            all.extend_from_slice(&bytes);
        }
        let expected: Vec<u8> = (0..100).flat_map(|number| block(number).to_vec()).collect();
        assert!(all == expected);
    }

    #[test]
    fn the_file_of_a_long_response_stays_small() {
        let (sender, receiver) = channel();
        let block = Bytes::from(vec![7; FILE_BLOCK]);
        let blocks = 2 * FILE_LIMIT as usize / FILE_BLOCK;
        let shared = sender.0.clone();
        let writer = std::thread::spawn(move || {
            for _ in 0..blocks {
                if sender.send(block.clone()) == Sent::Full {
                    sender.room().wait();
                }
            }
            sender.finish(End::Complete);
        });
        let mut cx = Context::from_waker(Waker::noop());
        let mut total = 0;
        // A reader that is slow at first, and takes what there is in one go.
        while !shared.lock().slow {
            std::thread::yield_now();
        }
        loop {
            match receiver.poll_next(&mut cx) {
                Poll::Ready(Ok(bytes)) => total += bytes.len(),
                Poll::Ready(Err(end)) => break assert_eq!(end, End::Complete),
                Poll::Pending => std::thread::yield_now(),
            }
            assert!(shared.lock().file.written <= FILE_LIMIT + FILE_BLOCK as u64);
        }
        writer.join().unwrap();
        assert_eq!(total, blocks * FILE_BLOCK);
    }
}
