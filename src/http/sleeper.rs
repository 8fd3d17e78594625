//! A thread that sleeps until it is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::thread::{self, Thread};
use std::time::Duration;

use nix::unistd::Pid;

use crate::os;

pub struct Sleeper {
    thread: Thread,
    id: Pid,
    called: AtomicBool,
}

impl Sleeper {
    /// This thread. Only it may sleep.
    pub fn new() -> Arc<Self> {
        Arc::new(Sleeper { thread: thread::current(), id: nix::unistd::gettid(), called: AtomicBool::new(false) })
    }

    /// Until the next call, or the one that has come already.
    pub fn sleep(&self) {
        while !self.is_called() {
            thread::park();
        }
    }

    /// The same, for `time` at the most.
    pub fn doze(&self, time: Duration) {
        if !self.is_called() {
            thread::park_timeout(time);
        }
    }

    /// Whether a call has come; it counts no more then.
    pub fn is_called(&self) -> bool {
        self.called.swap(false, Acquire)
    }

    pub fn call(&self) {
        self.called.store(true, Release);
        self.thread.unpark();
    }

    /// Whether the thread waits for something, in the site's code or elsewhere, rather than to compute or to be let compute.
    pub fn is_waiting(&self) -> bool {
        os::is_waiting(self.id)
    }
}
