//! The way of a large request body to the app thread that reads it: bounded, and open to the client's pace.

use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use super::chunks::Chunks;
use super::engine::Engine;
use super::service::Shared;
use super::spool::next_piece;

/// The client has to wait when this much is there that the site has not asked for.
const HIGH: usize = 256 * 1024;
/// An app thread that waits for much is woken for no less than this: each time costs two switches of threads.
const BATCH: usize = 128 * 1024;

#[derive(Default)]
struct State {
    chunks: Chunks,
    /// What the app thread waits for, in bytes; 0 when it does not wait.
    wanted: usize,
    /// Nothing comes any more: the body is whole, or why it is not.
    end: Option<Result<(), String>>,
    /// The site is done with the body: what comes is thrown away.
    closed: bool,
    feeder: Option<Waker>,
    /// Held while an app thread may have to wait for the client.
    place: Option<OwnedSemaphorePermit>,
}

struct Channel {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the app thread if it has what it waits for.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let done = state.wanted > 0 && (state.end.is_some() || state.chunks.len() >= state.wanted);
        drop(state);
        if done {
            self.arrived.notify_one();
        }
    }

    fn poll_room(&self, cx: &mut Context) -> Poll<()> {
        let mut state = self.lock();
        if state.closed || state.chunks.len() < HIGH {
            return Poll::Ready(());
        }
        state.feeder = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A body on its way, as the site reads it.
pub struct Upload {
    ready: Chunks,
    /// Bytes that are not ready yet.
    left: u64,
    channel: Arc<Channel>,
    engine: &'static Engine,
}

impl Upload {
    /// A body whose `first` bytes have come, and `left` have not. They follow by themselves; `place` is given back when the last has
    /// come, or the site is done. Must be called on the I/O thread's runtime.
    pub fn start(
        first: Chunks,
        left: u64,
        body: Incoming,
        shared: &'static Shared,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let state = Mutex::new(State { place: Some(place), ..State::default() });
        let channel = Arc::new(Channel { state, arrived: Condvar::new() });
        // The site may read after it has begun to answer, or answer without having read: this goes on beside the response.
        tokio::spawn(feed(channel.clone(), body, shared));
        Upload { ready: first, left, channel, engine: shared.engine }
    }

    /// What has not been read, in bytes.
    pub fn len(&self) -> u64 {
        self.ready.len() as u64 + self.left
    }

    /// What can be read without a wait.
    pub fn ready(&mut self) -> &mut Chunks {
        &mut self.ready
    }

    /// If nothing is ready, waits for `wanted` bytes, for a part of them that is worth it, or for the end.
    fn refill(&mut self, wanted: usize) -> io::Result<()> {
        if !self.ready.is_empty() || self.left == 0 || wanted == 0 {
            return Ok(());
        }
        let wanted = wanted.min(BATCH);
        let waits = |state: &mut State| state.end.is_none() && state.chunks.len() < wanted;
        let mut state = self.channel.lock();
        if waits(&mut state) {
            drop(state);
            self.engine.step_aside();
            state = self.channel.lock();
            state.wanted = wanted;
            state = self.channel.arrived.wait_while(state, waits).unwrap_or_else(PoisonError::into_inner);
            state.wanted = 0;
        }
        if let (true, Some(end)) = (state.chunks.is_empty(), &state.end) {
            let why = end.as_ref().err().map_or("it was shorter than its Content-Length", String::as_str);
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
        self.ready = std::mem::take(&mut state.chunks);
        self.left = self.left.saturating_sub(self.ready.len() as u64);
        let feeder = state.feeder.take();
        drop(state);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
        Ok(())
    }
}

impl Read for Upload {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.refill(buf.len())?;
        self.ready.read(buf)
    }
}

impl io::BufRead for Upload {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.refill(1)?;
        self.ready.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.ready.consume(count);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.closed = true;
        state.chunks = Chunks::default();
        state.place = None;
        let feeder = state.feeder.take();
        drop(state);
        if let Some(feeder) = feeder {
            feeder.wake();
        }
    }
}

/// Takes from the client what there is room for, until the body ends.
async fn feed(channel: Arc<Channel>, mut body: Incoming, shared: &'static Shared) {
    let end = loop {
        std::future::poll_fn(|cx| channel.poll_room(cx)).await;
        match next_piece(&mut body, shared).await {
            Ok(Some(piece)) => channel.change(|state| {
                if !state.closed {
                    state.chunks.push(piece, BATCH);
                }
            }),
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.to_string()),
        }
    };
    channel.change(|state| {
        state.end = Some(end);
        state.place = None;
    });
}
