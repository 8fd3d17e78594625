//! A histogram of times, in shared memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use zerocopy::FromZeros;

/// Upper bounds of a histogram's buckets, in nanoseconds.
pub type Bounds = [u64; 14];

/// Those of `http_server_request_duration_seconds` (OpenTelemetry's HTTP semantic conventions).
pub const REQUEST_BOUNDS: Bounds =
    times(1_000_000, [5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000]);
/// Those of what happens inside a worker: waits for a thread and for the GIL, application, writing.
pub const INNER_BOUNDS: Bounds = times(
    1_000,
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000],
);

const fn times(factor: u64, mut bounds: Bounds) -> Bounds {
    let mut i = 0;
    while i < bounds.len() {
        bounds[i] *= factor;
        i += 1;
    }
    bounds
}

/// A histogram with one writer or many: bucket counts are not cumulative here.
#[repr(C)]
#[derive(FromZeros)]
pub struct Histogram {
    buckets: [AtomicU64; 15],
    sum_nanos: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, bounds: &Bounds, value: Duration) {
        let nanos = value.as_nanos() as u64;
        let bucket = bounds.iter().position(|bound| nanos <= *bound).unwrap_or(bounds.len());
        if nanos > 0 {
            self.sum_nanos.fetch_add(nanos, Relaxed);
        }
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// The count of each bucket, the last for what is above every bound.
    pub fn counts(&self) -> [u64; 15] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_nanos.load(Relaxed) as f64 / 1e9
    }
}
