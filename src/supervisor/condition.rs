//! What the server does at present, in words for `systemctl status`.

use std::sync::atomic::Ordering::Relaxed;

use crate::metrics::{Scoreboard, State};

#[derive(Debug, Default, PartialEq)]
pub enum Phase {
    #[default]
    Importing,
    Installing,
    Serving,
    Stopping,
}

/// What the scoreboard does not know.
#[derive(Default)]
pub struct Condition {
    pub site: String,
    /// Where the site is served.
    pub addresses: String,
    /// Workers when all is well, and the app threads of each.
    pub workers: usize,
    pub threads: usize,
    pub phase: Phase,
    /// The import that serves; workers of others are about to, or finish what they have.
    pub generation: u64,
    pub reloading: bool,
    /// Why the last reload failed, if it did.
    pub failed: Option<String>,
}

impl Condition {
    /// One line. It says how many threads are busy if it is asked to, for that changes without an event.
    pub fn words(&self, board: Scoreboard, busy: bool) -> String {
        let site = &self.site;
        match self.phase {
            Phase::Installing => format!("installing the packages of {site}"),
            Phase::Importing => format!("importing {site}"),
            Phase::Stopping => {
                let present = board.slots().iter().filter(|slot| !slot.is(State::Free));
                let requests = present.clone().map(|slot| slot.active_requests()).sum::<u64>() as usize;
                format!("draining: {} under way in {}", count(requests, "request"), count(present.count(), "worker"))
            }
            Phase::Serving => {
                let mut words = format!("serving {site} on {}: {}", self.addresses, self.serving(board, busy));
                let older = board.slots().iter().filter(|slot| slot.is(State::Draining)).count();
                if older > 0 {
                    words +=
                        &format!("; {} of before {}", count(older, "worker"), if older == 1 { "ends" } else { "end" });
                }
                if self.reloading {
                    words += "; reloading";
                } else if let Some(reason) = &self.failed {
                    words += &format!("; the last reload failed: {reason}");
                }
                words
            }
        }
    }

    fn serving(&self, board: Scoreboard, busy: bool) -> String {
        let ready: Vec<_> = board
            .slots()
            .iter()
            .filter(|slot| slot.is(State::Ready) && slot.generation.load(Relaxed) == self.generation)
            .collect();
        let workers = count(self.workers, "worker");
        let workers = if ready.len() == self.workers { workers } else { format!("{} of {workers}", ready.len()) };
        if !busy {
            return workers;
        }
        let busy: i64 = ready.iter().map(|slot| slot.threads_busy.load(Relaxed)).sum();
        format!("{workers}, {busy} of {} busy", count(self.workers * self.threads, "thread"))
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_follow_the_workers() {
        let (_fd, board) = Scoreboard::create(4, 8).unwrap();
        let mut now = Condition {
            site: "hall".into(),
            addresses: "[::]:80".into(),
            workers: 2,
            threads: 8,
            ..Default::default()
        };
        assert_eq!(now.words(board, true), "importing hall");
        for slot in 0..2 {
            board.slot(slot).occupy(7, 1, 8);
            board.slot(slot).set_state(State::Ready);
        }
        (now.phase, now.generation) = (Phase::Serving, 1);
        assert_eq!(now.words(board, false), "serving hall on [::]:80: 2 workers");
        board.slot(0).threads_busy.store(3, Relaxed);
        assert_eq!(now.words(board, true), "serving hall on [::]:80: 2 workers, 3 of 16 threads busy");
        now.reloading = true;
        board.vacate(1);
        assert_eq!(now.words(board, false), "serving hall on [::]:80: 1 of 2 workers; reloading");
        (now.reloading, now.generation) = (false, 2);
        board.slot(0).set_state(State::Draining);
        board.slot(2).occupy(8, 2, 8);
        board.slot(2).set_state(State::Ready);
        now.failed = Some("no table".into());
        let words = now.words(board, false);
        assert_eq!(
            words,
            "serving hall on [::]:80: 1 of 2 workers; 1 worker of before ends; the last reload failed: no table"
        );
        board.slot(0).begin_request();
        now.phase = Phase::Stopping;
        assert_eq!(now.words(board, false), "draining: 1 request under way in 2 workers");
    }
}
