//! The way of an answer from an app thread back to the request that waits for it on the I/O thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use atomic_waker::AtomicWaker;
use bytes::Bytes;
use http::response::Parts;
use tokio::sync::oneshot;

use crate::metrics::Reject;

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
    Stream(Receiver),
}

/// What a request comes to: an answer, or the reason why no app thread ran it.
pub type Outcome = Result<Answer, Reject>;

type Done = (oneshot::Sender<Outcome>, Outcome);

#[derive(Default)]
struct Waiting {
    done: Vec<Done>,
    bytes: usize,
}

/// How much waits for the I/O thread.
pub(super) struct Backlog {
    pub count: usize,
    /// Of bodies.
    pub bytes: usize,
}

/// Answers on their way. A wake-up of the I/O thread costs a system call, so answers given in a row share one.
#[derive(Default)]
pub struct Completions {
    waiting: Mutex<Waiting>,
    signalled: AtomicBool,
    waker: AtomicWaker,
}

impl Completions {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an outcome until the next [`Completions::deliver`].
    pub(super) fn push(&self, request: oneshot::Sender<Outcome>, outcome: Outcome) -> Backlog {
        let bytes = match &outcome {
            Ok(Answer { content: Content::Whole(bytes), .. }) => bytes.len(),
            Ok(Answer { content: Content::Blocks(blocks), .. }) => blocks.iter().map(Bytes::len).sum(),
            _ => 0,
        };
        let mut waiting = self.lock();
        waiting.done.push((request, outcome));
        waiting.bytes += bytes;
        Backlog { count: waiting.done.len(), bytes: waiting.bytes }
    }

    /// Lets the I/O thread know of the answers pushed so far.
    pub fn signal(&self) {
        if !self.signalled.swap(true, AcqRel) {
            self.waker.wake();
        }
    }

    /// The same, if there are any.
    pub fn flush(&self) {
        if !self.lock().done.is_empty() {
            self.signal();
        }
    }

    /// Hands over what has been pushed. On the I/O thread: waking a request's task from here needs no system call.
    pub fn deliver(&self) {
        self.signalled.store(false, Release);
        let waiting = std::mem::take(&mut *self.lock());
        for (request, outcome) in waiting.done {
            let _ = request.send(outcome);
        }
    }

    /// Delivers for ever.
    pub async fn run(&self) {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            self.deliver();
            Poll::<()>::Pending
        })
        .await;
    }
}
