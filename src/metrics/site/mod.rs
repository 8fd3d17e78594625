//! The site's own metrics, those of `prometheus_client`, in memory that supervisor, zygotes and workers share.
//!
//! Counters, histograms and summaries are cells that all workers of all generations add to: nothing is lost when one dies or is replaced.
//! Gauges have a cell for each slot of the scoreboard. What a site has declared once is shown until the supervisor ends.

mod arena;
pub mod exemplar;
mod expose;
pub mod series;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arena::Arena;
pub use arena::{Entry, Full};
use series::{Gauge, Key, Kind};

pub use expose::{expose, sample_names};

/// Bytes for some 100 000 values, each with a name and a few labels.
const ROOM: usize = 16 << 20;
/// And for a slot's cells of some 10 000 gauges.
const ROOM_OF_SLOT: usize = 256 << 10;
/// What an entry is besides its kind: a value, or that a metric was declared.
const DECLARATION: u16 = 1 << 8;
/// Or the last exemplar of a value.
const EXEMPLAR: u16 = 1 << 9;

/// The site's metrics, as mapped into this process.
#[derive(Clone, Copy)]
pub struct SiteMetrics {
    arena: Arena,
    slots: usize,
}

impl SiteMetrics {
    /// New shared memory for workers in so many slots, and its mapping here.
    pub fn create(slots: usize) -> io::Result<(OwnedFd, Self)> {
        let (fd, arena) = Arena::create("atrio-site-metrics", size(slots))?;
        Ok((fd, SiteMetrics { arena, slots }))
    }

    /// Maps what another process created.
    pub fn open(fd: BorrowedFd, slots: usize) -> io::Result<Self> {
        Ok(SiteMetrics { arena: Arena::open(fd, size(slots))?, slots })
    }

    /// A value.
    pub fn value(self, kind: Kind, key: &Key) -> Result<Entry, Full> {
        let cells = if matches!(kind, Kind::Gauge(_)) { Gauge::cells(self.slots) } else { 1 };
        let key = serde_json::to_vec(key).unwrap_or_default();
        self.arena.entry(kind.tag(), &key, cells)
    }

    /// The cells of the exemplar that a value has.
    pub fn exemplar(self, value: Entry) -> Result<&'static [AtomicU64], Full> {
        self.arena.entry(value.tag() | EXEMPLAR, &value.key(), exemplar::CELLS).map(|entry| entry.cells())
    }

    /// A generation of the site declares a metric, with its help.
    pub fn declare(self, kind: Kind, name: &str, help: &str, generation: u64) -> Result<(), Full> {
        let key = serde_json::to_vec(&(name, help)).unwrap_or_default();
        self.arena.entry(kind.tag() | DECLARATION, &key, 1)?.cells()[0].fetch_max(generation, Relaxed);
        Ok(())
    }

    /// Values of the site's metrics that there was no room for.
    pub fn dropped(self) -> u64 {
        self.arena.refused()
    }

    /// The worker of a slot is dead; called by the supervisor alone.
    pub fn bury(self, slot: usize) {
        for (kind, gauge) in self.gauges() {
            if let Kind::Gauge(mode) = kind {
                gauge.bury(slot, mode);
            }
        }
    }

    /// A new worker has a slot: of the last one nothing is left there.
    pub fn occupy(self, slot: usize) {
        self.gauges().for_each(|(_, gauge)| gauge.reading(slot).vacate());
    }

    fn gauges(self) -> impl Iterator<Item = (Kind, Gauge)> {
        let cells = Gauge::cells(self.slots);
        self.arena.entries().filter_map(move |entry| {
            let kind = Kind::from_tag(entry.tag()).filter(|kind| matches!(kind, Kind::Gauge(_)))?;
            Some((kind, Gauge::new(entry.cells())?)).filter(|_| entry.cells().len() == cells)
        })
    }

    /// The values: what they are of, and their cells.
    fn values(self) -> impl Iterator<Item = (Kind, Key, &'static [AtomicU64])> {
        self.arena.entries().filter_map(|entry| {
            let kind = Kind::from_tag(entry.tag())?;
            Some((kind, serde_json::from_slice(&entry.key()).ok()?, entry.cells()))
        })
    }

    /// The exemplars: of which value, and their text.
    fn exemplars(self) -> impl Iterator<Item = (Kind, Key, String)> {
        self.arena.entries().filter_map(|entry| {
            let kind = Kind::from_tag(entry.tag() ^ EXEMPLAR)?;
            Some((kind, serde_json::from_slice(&entry.key()).ok()?, exemplar::load(entry.cells())?))
        })
    }

    /// What was declared: a kind, a name, its help, and by which generation at last.
    fn declarations(self) -> impl Iterator<Item = (Kind, String, String, u64)> {
        self.arena.entries().filter_map(|entry| {
            let kind = Kind::from_tag(entry.tag() ^ DECLARATION)?;
            let (name, help) = serde_json::from_slice(&entry.key()).ok()?;
            Some((kind, name, help, entry.cells().first()?.load(Relaxed)))
        })
    }
}

fn size(slots: usize) -> usize {
    ROOM + slots * ROOM_OF_SLOT
}
