//! The way of an answer from an app thread back to the request that waits for it on the I/O thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Release};
use std::sync::{Mutex, PoisonError};
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

/// Answers on their way. A wake-up of the I/O thread costs a system call, so answers given in a row share one.
#[derive(Default)]
pub struct Completions {
    done: Mutex<Vec<Done>>,
    signalled: AtomicBool,
    waker: AtomicWaker,
}

impl Completions {
    /// Keeps an answer until the next [`Completions::deliver`]; how many are kept now.
    pub(super) fn push(&self, done: Done) -> usize {
        let mut all = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(done);
        all.len()
    }

    /// Lets the I/O thread know of the answers pushed so far.
    pub fn signal(&self) {
        if !self.signalled.swap(true, AcqRel) {
            self.waker.wake();
        }
    }

    /// The same, if there are any.
    pub fn flush(&self) {
        if !self.done.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            self.signal();
        }
    }

    /// Hands over what has been pushed. On the I/O thread: waking a request's task from here needs no system call.
    pub fn deliver(&self) {
        self.signalled.store(false, Release);
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        for (request, outcome) in done {
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
