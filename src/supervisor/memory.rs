//! How much memory each worker has: asked when somebody wants to know, and seldom, for the kernel walks through all of it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::process::proportional_memory;
use crate::metrics::{Scoreboard, Slot};

/// For how long an answer is good.
const FRESH: Duration = Duration::from_secs(5);
/// How long a new one is waited for; it is for the next who asks, if it takes longer.
const PATIENCE: Duration = Duration::from_millis(5);

pub struct Memory {
    board: Scoreboard,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    /// Slot, process and bytes.
    workers: Vec<(usize, i64, u64)>,
    /// When they were asked for.
    at: Option<Instant>,
    /// They are being asked for: a process in the grip of the kernel may hold that up.
    asking: bool,
}

fn pid(slot: &Slot) -> i64 {
    slot.pid.load(std::sync::atomic::Ordering::Relaxed)
}

impl Memory {
    pub fn new(board: Scoreboard) -> Self {
        Memory { board, known: Arc::default() }
    }

    /// Slot and bytes of those workers that could be looked at.
    pub async fn of_workers(&self) -> Vec<(usize, u64)> {
        if self.is_due() {
            let (board, known) = (self.board, self.known.clone());
            let ask = tokio::task::spawn_blocking(move || {
                let ask = |(number, slot): (usize, &Slot)| {
                    let pid = Some(pid(slot)).filter(|pid| *pid > 0)?;
                    Some((number, pid, proportional_memory(pid)?))
                };
                let workers = board.slots().iter().enumerate().filter_map(ask).collect();
                let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
                *known = Known { workers, at: Some(Instant::now()), asking: false };
            });
            let _ = tokio::time::timeout(PATIENCE, ask).await;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let present = known.workers.iter().filter(|(slot, process, _)| pid(self.board.slot(*slot)) == *process);
        present.map(|(slot, _, bytes)| (*slot, *bytes)).collect()
    }

    fn is_due(&self) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_now = self.board.slots().iter().map(pid).filter(|pid| *pid > 0);
        // A new worker is looked at without delay.
        let same = of_now.eq(known.workers.iter().map(|(_, pid, _)| *pid));
        let due = !known.asking && (!same || known.at.is_none_or(|at| at.elapsed() >= FRESH));
        known.asking |= due;
        due
    }
}
