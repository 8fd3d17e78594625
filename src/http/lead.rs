//! Who drives the runtime: pure state, changed under the queue's lock.
//!
//! The runtime that serves all connections is driven by one thread at a time, the leader. While requests are quick, an app
//! thread leads: it reads what clients sent, runs the requests, and writes the answers, and no request changes threads on its
//! way. The I/O thread watches it meanwhile, and takes over when it does not come back from a request: then the I/O thread leads, and
//! app threads only run requests.
//!
//! While an app thread leads, no other app thread runs a request: it takes the lead when none does, and others are called only after it
//! has lost the lead.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leader {
    #[default]
    Io,
    App,
}

/// What the I/O thread should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It leads.
    Lead,
    /// All is well: look again soon.
    Again,
    /// Nothing goes on: sleep until called.
    Sleep,
    /// The leader has been at the same request, or on its way to one, since the last look.
    Stuck,
}

/// How many looks at a leader that has nothing to do come before sleep: a look costs less than to be called.
const IDLE_LOOKS: u32 = 3;

#[derive(Debug, Default)]
pub struct Lead {
    leader: Leader,
    /// The leading app thread runs requests, or is on its way to: nobody drives.
    away: bool,
    /// Steps that leading app threads have made: counts requests, and what comes before the first of a batch.
    steps: u64,
    /// As `steps` was when the I/O thread looked last.
    seen: u64,
    idle_looks: u32,
    /// The I/O thread looks now and then; otherwise it has to be called.
    watched: bool,
}

impl Lead {
    pub fn leader(&self) -> Leader {
        self.leader
    }

    /// The leading app thread is not driving.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// The I/O thread gives the lead to an app thread, which has requests to run, and begins to watch it.
    pub fn give(&mut self) {
        let steps = self.steps + 1;
        *self = Lead { leader: Leader::App, away: true, steps, seen: steps, watched: true, ..Lead::default() };
    }

    /// The leading app thread stops driving, to run requests. True: the I/O thread has to be called to watch.
    pub fn leave(&mut self) -> bool {
        self.away = true;
        self.steps += 1;
        !std::mem::replace(&mut self.watched, true)
    }

    /// The leading app thread begins a request.
    pub fn step(&mut self) {
        self.steps += 1;
    }

    /// The leading app thread goes back to drive.
    pub fn drive(&mut self) {
        self.away = false;
    }

    /// The I/O thread looks.
    pub fn look(&mut self) -> Watch {
        let moved = std::mem::replace(&mut self.seen, self.steps) != self.steps;
        let idle = !moved && !self.away;
        self.idle_looks = if idle { self.idle_looks + 1 } else { 0 };
        match self.leader {
            Leader::Io => Watch::Lead,
            Leader::App if self.idle_looks >= IDLE_LOOKS => {
                self.watched = false;
                Watch::Sleep
            }
            Leader::App if moved || idle => Watch::Again,
            Leader::App => Watch::Stuck,
        }
    }

    /// The I/O thread takes the lead of an app thread that it found stuck; false when that has moved on since.
    pub fn take_over(&mut self) -> bool {
        let stuck = self.leader == Leader::App && self.away && self.steps == self.seen;
        if stuck {
            self.resign();
        }
        stuck
    }

    /// The leading app thread gives the lead back; the I/O thread has to be called.
    pub fn resign(&mut self) {
        *self = Lead { steps: self.steps, ..Lead::default() };
    }

    /// All that what comes next depends on.
    #[cfg(test)]
    pub fn summary(&self) -> impl std::fmt::Debug + use<> {
        (self.leader, self.away, self.steps == self.seen, self.idle_looks.min(IDLE_LOOKS), self.watched)
    }
}
