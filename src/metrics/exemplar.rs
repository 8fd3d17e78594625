//! An exemplar: the trace of one of the requests that a histogram counts, in shared memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zerocopy::FromZeros;

use super::seqlock::Seqlock;

/// A request whose trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace: u128,
    pub value: Duration,
    /// Since the epoch.
    pub at: Duration,
}

/// The last one.
#[repr(C)]
#[derive(FromZeros)]
pub struct Last {
    lock: Seqlock,
    /// The halves of the trace's id; zeros, which are none's: there is no exemplar yet.
    trace: [AtomicU64; 2],
    nanos: AtomicU64,
    millis: AtomicU64,
}

impl Last {
    pub fn set(&self, trace: u128, value: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.lock.write(|| {
            self.trace[0].store((trace >> 64) as u64, Relaxed);
            self.trace[1].store(trace as u64, Relaxed);
            self.nanos.store(value.as_nanos() as u64, Relaxed);
            self.millis.store(now.as_millis() as u64, Relaxed);
        });
    }

    pub fn get(&self) -> Option<Exemplar> {
        let look = || {
            let [high, low] = [0, 1].map(|half: usize| u128::from(self.trace[half].load(Relaxed)));
            Exemplar {
                trace: high << 64 | low,
                value: Duration::from_nanos(self.nanos.load(Relaxed)),
                at: Duration::from_millis(self.millis.load(Relaxed)),
            }
        };
        self.lock.read(look).filter(|exemplar| exemplar.trace != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_kept() {
        let last = Last::new_zeroed();
        assert_eq!(last.get(), None);
        for trace in [1 << 64, u128::MAX] {
            last.set(trace, Duration::from_nanos(7));
            let Exemplar { trace: found, value, at } = last.get().unwrap();
            assert_eq!((found, value), (trace, Duration::from_nanos(7)));
            assert!(UNIX_EPOCH + at <= SystemTime::now());
        }
    }
}
