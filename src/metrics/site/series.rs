//! What is kept of a site's metric, and how the values of several workers become one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a metric is: a kind of `prometheus_client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Counter,
    Summary,
    Histogram,
    Gauge(Mode),
}

/// What the gauges of several workers are together (`multiprocess_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mode {
    pub merge: Merge,
    /// A worker's value ends with it.
    pub live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Merge {
    /// A series for each worker, told apart by the label `pid`.
    All,
    Min,
    Max,
    Sum,
    MostRecent,
}

impl Kind {
    const ALL: [Kind; 13] = {
        const fn gauge(merge: Merge, live: bool) -> Kind {
            Kind::Gauge(Mode { merge, live })
        }
        [
            Kind::Counter,
            Kind::Summary,
            Kind::Histogram,
            gauge(Merge::All, false),
            gauge(Merge::All, true),
            gauge(Merge::Min, false),
            gauge(Merge::Min, true),
            gauge(Merge::Max, false),
            gauge(Merge::Max, true),
            gauge(Merge::Sum, false),
            gauge(Merge::Sum, true),
            gauge(Merge::MostRecent, false),
            gauge(Merge::MostRecent, true),
        ]
    };

    /// By the names that `prometheus_client` has for a type and a mode. `None`: a type of which nothing is known.
    pub fn named(kind: &str, mode: &str) -> Option<Self> {
        let live = mode.starts_with("live");
        let merge = match mode.trim_start_matches("live") {
            "min" => Merge::Min,
            "max" => Merge::Max,
            "sum" => Merge::Sum,
            "mostrecent" => Merge::MostRecent,
            _ => Merge::All,
        };
        Some(match kind {
            "counter" => Kind::Counter,
            "summary" => Kind::Summary,
            "histogram" => Kind::Histogram,
            "gauge" => Kind::Gauge(Mode { merge, live }),
            _ => return None,
        })
    }

    /// The word that the formats have for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Summary => "summary",
            Kind::Histogram => "histogram",
            Kind::Gauge(_) => "gauge",
        }
    }

    /// As a number, which is not 0.
    pub fn tag(self) -> u16 {
        Self::ALL.iter().position(|kind| *kind == self).map_or(0, |at| at as u16 + 1)
    }

    pub fn from_tag(tag: u16) -> Option<Self> {
        Self::ALL.get(usize::from(tag).checked_sub(1)?).copied()
    }
}

/// Which value of a site's metric it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Key {
    /// The metric's name, without `_total`.
    pub name: String,
    /// What the name of its sample has behind that: `_total`, `_sum` and the like.
    pub suffix: String,
    /// Sorted by name, which makes them the same in whatever order they were declared.
    pub labels: Vec<(String, String)>,
}

/// Adds to a floating-point number. What several processes add at once adds up.
pub fn add(cell: &AtomicU64, amount: f64) {
    let sum = |bits| Some((f64::from_bits(bits) + amount).to_bits());
    let _ = cell.fetch_update(Relaxed, Relaxed, sum);
}

/// A floating-point number.
pub fn value(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Relaxed))
}

pub fn set(cell: &AtomicU64, value: f64) {
    cell.store(value.to_bits(), Relaxed);
}

/// A gauge: a [`Reading`] for each slot of the scoreboard, and one for those that are dead.
#[derive(Clone, Copy)]
pub struct Gauge(&'static [AtomicU64]);

/// Words of a reading.
const READING: usize = 3;

/// What a process says that a gauge shows.
pub struct Reading {
    /// 0: nothing is said.
    pid: &'static AtomicU64,
    pub value: &'static AtomicU64,
    /// Seconds since the epoch; 0 if it was not set with a time.
    pub time: &'static AtomicU64,
}

impl Reading {
    pub fn occupy(&self, pid: u32, at: f64, time: f64) {
        set(self.value, at);
        set(self.time, time);
        self.pid.store(pid.into(), Relaxed);
    }

    pub fn vacate(&self) {
        self.pid.store(0, Relaxed);
    }

    pub fn pid(&self) -> Option<u64> {
        Some(self.pid.load(Relaxed)).filter(|pid| *pid > 0)
    }
}

impl Gauge {
    pub fn cells(slots: usize) -> usize {
        (slots + 1) * READING
    }

    /// The gauge in these cells; `None` if they are too few for one.
    pub fn new(cells: &'static [AtomicU64]) -> Option<Self> {
        (cells.len() >= READING && cells.len().is_multiple_of(READING)).then_some(Gauge(cells))
    }

    pub fn reading(self, slot: usize) -> Reading {
        let cells = &self.0[slot * READING..];
        Reading { pid: &cells[0], value: &cells[1], time: &cells[2] }
    }

    fn dead(self) -> Reading {
        self.reading(self.0.len() / READING - 1)
    }

    /// All readings, the last that of the dead.
    pub fn readings(self) -> impl Iterator<Item = Reading> {
        (0..self.0.len() / READING).map(move |slot| self.reading(slot)).filter(|reading| reading.pid().is_some())
    }

    /// The worker of a slot is dead: what its value is from now on. With [`Merge::All`] it stays until another worker has the slot, for
    /// there is an end to the number of series.
    pub fn bury(self, slot: usize, mode: Mode) {
        let (reading, dead) = (self.reading(slot), self.dead());
        let Some(pid) = reading.pid() else { return };
        if !mode.live && mode.merge == Merge::All {
            return;
        }
        if !mode.live {
            let (last, time) = (value(reading.value), value(reading.time));
            let both = [Some((last, time)), dead.pid().map(|_| (value(dead.value), value(dead.time)))];
            if let Some((last, time)) = merged(both.into_iter().flatten(), mode.merge) {
                dead.occupy(pid as u32, last, time);
            }
        }
        reading.vacate();
    }

    /// The one value of all workers, if they have one. Not for [`Merge::All`].
    pub fn merged(self, merge: Merge) -> Option<f64> {
        merged(self.readings().map(|reading| (value(reading.value), value(reading.time))), merge).map(|(at, _)| at)
    }
}

/// A value and its time, from several.
fn merged(values: impl Iterator<Item = (f64, f64)>, merge: Merge) -> Option<(f64, f64)> {
    match merge {
        Merge::Min => values.min_by(|a, b| a.0.total_cmp(&b.0)),
        Merge::Max => values.max_by(|a, b| a.0.total_cmp(&b.0)),
        Merge::Sum => values.reduce(|a, b| (a.0 + b.0, 0.0)),
        // What was never set is not recent.
        Merge::MostRecent => values.filter(|(_, time)| *time > 0.0).max_by(|a, b| a.1.total_cmp(&b.1)),
        Merge::All => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_and_numbers() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_tag(kind.tag()), Some(kind));
        }
        assert_eq!((Kind::from_tag(0), Kind::from_tag(14)), (None, None));
        let live_max = Kind::Gauge(Mode { merge: Merge::Max, live: true });
        assert_eq!(Kind::named("gauge", "livemax"), Some(live_max));
        assert_eq!(Kind::named("counter", ""), Some(Kind::Counter));
        assert_eq!(Kind::named("stateset", ""), None);
    }

    #[test]
    fn what_the_dead_leave_follows_the_mode() {
        // Two workers show 3 and 5, the second set last; the first dies, then the second.
        for (merge, together, live_after_one, after_all) in [
            (Merge::Min, 3.0, 5.0, 3.0),
            (Merge::Max, 5.0, 5.0, 5.0),
            (Merge::Sum, 8.0, 5.0, 8.0),
            (Merge::MostRecent, 5.0, 5.0, 5.0),
        ] {
            for live in [false, true] {
                let cells: Vec<AtomicU64> = (0..Gauge::cells(2)).map(|_| AtomicU64::new(0)).collect();
                let gauge = Gauge::new(cells.leak()).unwrap();
                assert_eq!(gauge.merged(merge), None);
                gauge.reading(0).occupy(11, 3.0, 100.0);
                gauge.reading(1).occupy(12, 5.0, 200.0);
                let mode = Mode { merge, live };
                assert_eq!(gauge.merged(merge), Some(together), "{mode:?}");
                gauge.bury(0, mode);
                assert_eq!(gauge.merged(merge), Some(if live { live_after_one } else { together }), "{mode:?}");
                gauge.bury(1, mode);
                gauge.bury(1, mode);
                assert_eq!(gauge.merged(merge), (!live).then_some(after_all), "{mode:?}");
            }
        }
    }

    #[test]
    fn many_add_at_once_and_nothing_is_lost() {
        let cell = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| add(&cell, 0.5)));
            }
        });
        assert_eq!(value(&cell), 20_000.0);
    }
}
