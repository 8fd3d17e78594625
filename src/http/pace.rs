//! Whether the site's requests have been quick lately: the question on which the engine's ways of working depend.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// What a quick request takes at most; also how often help is looked for while requests are under way.
pub const QUICK: Duration = Duration::from_millis(1);
/// How many quick requests in a row it takes after a slow one to be taken for quick again.
const PATIENCE: u32 = 32;

#[derive(Debug, Default)]
pub struct Pace(AtomicU32);

impl Pace {
    /// A request has been answered; `slow`: it waited for something, for longer than [`QUICK`].
    pub fn note(&self, slow: bool) {
        if slow {
            self.0.store(PATIENCE, Relaxed);
        } else if self.0.load(Relaxed) > 0 {
            self.0.fetch_update(Relaxed, Relaxed, |score| score.checked_sub(1)).ok();
        }
    }

    pub fn is_quick(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// So many quick requests are to come until the site is taken for quick.
    #[cfg(test)]
    pub fn set(&self, left: u32) {
        self.0.store(left, Relaxed);
    }
}
