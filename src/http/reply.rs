//! The way of an answer from an app thread back to the request that waits for it on the I/O thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Relaxed, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::response::Parts;
use tokio::sync::oneshot;

use crate::metrics::Reject;

use super::file::Part;
use super::stream::Receiver;

/// What a site answered.
pub struct Answer {
    pub head: Parts,
    pub content: Content,
    /// The connection cannot be used again.
    pub close: bool,
    /// How long the request had waited for an app thread.
    pub queued: Duration,
}

/// The body of an answer.
pub enum Content {
    Empty,
    /// All there is.
    Whole(Bytes),
    Blocks(VecDeque<Bytes>),
    File(Part),
    Stream(Receiver),
}

/// Bytes of a body that the kernel takes at once, if the client reads at all: half of what Linux lets wait on a new connection.
pub const SMALL: usize = 8 * 1024;

impl Content {
    /// Nothing of it can still be on its way when hyper has it.
    pub fn is_small(&self) -> bool {
        match self {
            Content::Empty => true,
            Content::Whole(bytes) => bytes.len() <= SMALL,
            Content::Blocks(blocks) => blocks.iter().map(Bytes::len).sum::<usize>() <= SMALL,
            Content::File(_) | Content::Stream(_) => false,
        }
    }
}

/// What a request comes to: an answer, or the reason why no app thread ran it.
pub type Outcome = Result<Answer, Reject>;

type Done = (oneshot::Sender<Outcome>, Outcome);

#[derive(Default)]
struct Waiting {
    done: Vec<Done>,
    bytes: usize,
}

/// Answers on their way. To wake the thread that drives the runtime costs a system call, so answers given in a row share one, and
/// those of an app thread that leads need none: it delivers them when it drives next.
#[derive(Default)]
pub struct Completions {
    waiting: Mutex<Waiting>,
    /// The thread that gives answers is the one that delivers them.
    leading: AtomicBool,
    heavy: AtomicBool,
    signalled: AtomicBool,
    waker: AtomicWaker,
}

/// Answers that may wait for one common wake-up, and bytes of their bodies.
const MAX_DEFERRED_BYTES: usize = 256 * 1024;
const MAX_DEFERRED: usize = 64;

impl Completions {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An app thread gains or loses the lead. Whoever takes it says so before he delivers: an answer that is given meanwhile is either
    /// delivered by him, or its giver sees that it has to signal.
    pub(super) fn set_leading(&self, leading: bool) {
        self.leading.store(leading, Relaxed);
    }

    /// Keeps an outcome until the next [`Completions::deliver`], and sees to it that there is one. `deferred`: that may wait for the
    /// thread's next [`Completions::flush`].
    pub(super) fn give(&self, request: oneshot::Sender<Outcome>, outcome: Outcome, deferred: bool) {
        let bytes = match &outcome {
            Ok(Answer { content: Content::Whole(bytes), .. }) => bytes.len(),
            Ok(Answer { content: Content::Blocks(blocks), .. }) => blocks.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        let mut waiting = self.lock();
        waiting.done.push((request, outcome));
        waiting.bytes += bytes;
        let (count, heavy) = (waiting.done.len(), waiting.bytes >= MAX_DEFERRED_BYTES);
        drop(waiting);
        if self.leading.load(Relaxed) {
            if heavy {
                self.heavy.store(true, Relaxed);
            }
            return;
        }
        if !deferred || count >= MAX_DEFERRED || heavy {
            self.signal();
        }
        if heavy {
            // What is written while it is in the processor's caches costs half.
            std::thread::yield_now();
        }
    }

    /// Whether the bodies given are large enough for the thread that leads to write them now, out of the processor's caches.
    pub(super) fn is_heavy(&self) -> bool {
        self.heavy.load(Relaxed)
    }

    fn signal(&self) {
        if !self.signalled.swap(true, AcqRel) {
            self.wake();
        }
    }

    /// Lets the thread that drives look at its own future again.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }

    /// Has delivered what this thread gave, if anything waits.
    pub(super) fn flush(&self) {
        if !self.lock().done.is_empty() {
            self.signal();
        }
    }

    /// Hands over what has been given. On the thread that drives: waking a request's task from here needs no system call.
    pub fn deliver(&self) {
        self.signalled.store(false, Release);
        self.heavy.store(false, Relaxed);
        let mut done = std::mem::take(&mut *self.lock()).done;
        if done.is_empty() {
            return;
        }
        for (request, outcome) in done.drain(..) {
            let _ = request.send(outcome);
        }
        // Its memory serves the next answers.
        let mut waiting = self.lock();
        if waiting.done.capacity() == 0 {
            waiting.done = done;
        }
    }

    /// The same, and again whenever `waker` is woken because there is more.
    pub(super) fn deliver_and_watch(&self, waker: &Waker) {
        self.waker.register(waker);
        self.deliver();
    }
}
