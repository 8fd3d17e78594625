//! The values of the site's `prometheus_client`, in [`SiteMetrics`].
//!
//! That package takes the class of its values from `prometheus_client.values`, when it is imported: [`Value`] takes the place of the class
//! for a single process. A site that sets `PROMETHEUS_MULTIPROC_DIR` has chosen the package's own way, and keeps it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::metrics::SiteMetrics;
use crate::metrics::site::series::{self, Key, Kind};
use crate::metrics::site::{Entry, exemplar};

/// Makes [`Value`] the class of values, once the package is imported. The loader of a module may be that of others, too (zipimport).
const HOOK: &std::ffi::CStr = cr#"
import os, sys

MODULE = "prometheus_client.values"


def replace(values):
    if values.ValueClass is values.MutexValue:
        values.ValueClass = Value
        os.register_at_fork(after_in_child=leave)


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != MODULE:
            return None
        sys.meta_path.remove(Finder)
        import importlib.util
        spec = importlib.util.find_spec(name)
        if spec is None:
            return None
        loader = spec.loader

        def exec_module(module):
            del loader.exec_module
            loader.exec_module(module)
            replace(module)

        loader.exec_module = exec_module
        return spec


if MODULE in sys.modules:
    replace(sys.modules[MODULE])
else:
    sys.meta_path.insert(0, Finder)
"#;

/// Where this process keeps values.
static SHARED: OnceLock<(SiteMetrics, u64)> = OnceLock::new();
/// The number of this worker's slot and one; 0 in other processes, a zygote and what the site forks itself.
static SLOT: AtomicUsize = AtomicUsize::new(0);
/// The gauges of this process, by where their cells are.
static GAUGES: Mutex<Option<HashMap<usize, Weak<Gauge>>>> = Mutex::new(None);

/// From now on the metrics of the site are in `metrics`, declared by this generation.
pub fn install(py: Python, metrics: SiteMetrics, generation: u64) -> PyResult<()> {
    if SHARED.set((metrics, generation)).is_err() {
        return Ok(());
    }
    let names = PyDict::new(py);
    names.set_item("Value", py.get_type::<Value>())?;
    names.set_item("leave", wrap_pyfunction!(leave, py)?)?;
    py.run(HOOK, Some(&names), None)
}

/// This process is the worker of a slot. What gauges were set to by the import is every worker's, as if each had imported the site.
pub fn occupy(slot: usize) {
    if let Some((metrics, _)) = SHARED.get() {
        metrics.occupy(slot);
        SLOT.store(slot + 1, Relaxed);
        for gauge in gauges().get_or_insert_default().values().filter_map(Weak::upgrade) {
            gauge.show(slot);
        }
    }
}

/// This process was forked by the site: it is no worker, and its gauges are its own.
#[pyfunction]
fn leave() {
    if let Some(slot) = SLOT.swap(0, Relaxed).checked_sub(1) {
        for gauge in gauges().get_or_insert_default().values().filter_map(Weak::upgrade) {
            let reading = gauge.shared.reading(slot);
            gauge.value.store(reading.value.load(Relaxed), Relaxed);
        }
    }
}

/// Never held while another thread may get the GIL, so not by any when a process forks.
fn gauges() -> MutexGuard<'static, Option<HashMap<usize, Weak<Gauge>>>> {
    GAUGES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot() -> Option<usize> {
    SLOT.load(Relaxed).checked_sub(1)
}

/// What a gauge shows in this process: a worker's value is in its slot's cells.
struct Gauge {
    shared: series::Gauge,
    place: usize,
    /// As long as this process is no worker.
    value: AtomicU64,
    time: AtomicU64,
}

impl Gauge {
    fn of(cells: &'static [AtomicU64]) -> Option<Arc<Self>> {
        let place = cells.as_ptr() as usize;
        let mut gauges = gauges();
        let gauges = gauges.get_or_insert_default();
        if let Some(gauge) = gauges.get(&place).and_then(Weak::upgrade) {
            return Some(gauge);
        }
        let shared = series::Gauge::new(cells)?;
        let gauge = Arc::new(Gauge { shared, place, value: AtomicU64::new(0), time: AtomicU64::new(0) });
        if let Some(slot) = slot() {
            gauge.show(slot);
        }
        gauges.insert(place, Arc::downgrade(&gauge));
        Some(gauge)
    }

    fn show(&self, slot: usize) {
        self.shared.reading(slot).occupy(std::process::id(), series::value(&self.value), series::value(&self.time));
    }

    fn value(&self) -> &AtomicU64 {
        slot().map_or(&self.value, |slot| self.shared.reading(slot).value)
    }

    fn time(&self) -> &AtomicU64 {
        slot().map_or(&self.time, |slot| self.shared.reading(slot).time)
    }
}

impl Drop for Gauge {
    /// The site has removed it (`remove`, `clear`), or let go of its registry.
    fn drop(&mut self) {
        let mut gauges = gauges();
        gauges.get_or_insert_default().remove(&self.place);
        if let Some(slot) = slot() {
            self.shared.reading(slot).vacate();
        }
    }
}

enum Store {
    Shared(Shared),
    Gauge(Arc<Gauge>),
    /// Of this process alone: there is no room for it, or nothing is known of its type.
    Own(AtomicU64),
}

/// A value of all workers together.
struct Shared {
    cell: &'static AtomicU64,
    entry: Entry,
    /// Where its exemplar is, once it has had one; `None` if there was no room for that.
    exemplar: OnceLock<Option<&'static [AtomicU64]>>,
}

impl Shared {
    fn of(entry: Entry) -> Option<Self> {
        Some(Shared { cell: entry.cells().first()?, entry, exemplar: OnceLock::new() })
    }

    fn set_exemplar(&self, text: &str) {
        let cells = || SHARED.get().and_then(|(metrics, _)| metrics.exemplar(self.entry).ok());
        if let Some(cells) = self.exemplar.get_or_init(cells) {
            exemplar::store(cells, text);
        }
    }
}

/// A value as `prometheus_client` uses them.
#[pyclass(frozen, module = "atrio")]
pub struct Value {
    store: Store,
    exemplar: Mutex<Option<Py<PyAny>>>,
}

impl Value {
    fn cell(&self) -> &AtomicU64 {
        match &self.store {
            Store::Shared(shared) => shared.cell,
            Store::Gauge(gauge) => gauge.value(),
            Store::Own(cell) => cell,
        }
    }

    fn exemplar(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.exemplar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Value {
    #[classattr]
    #[pyo3(name = "_multiprocess")]
    const MULTIPROCESS: bool = true;

    /// As `prometheus_client` calls it; until version 0.15 without a help.
    #[new]
    #[pyo3(signature = (typ, metric_name, name, labelnames, labelvalues, help_text=None, multiprocess_mode=None, **_more))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        typ: &str,
        metric_name: &Bound<PyString>,
        name: &Bound<PyString>,
        labelnames: &Bound<PyAny>,
        labelvalues: &Bound<PyAny>,
        help_text: Option<&Bound<PyAny>>,
        multiprocess_mode: Option<&str>,
        _more: Option<&Bound<PyDict>>,
    ) -> PyResult<Self> {
        let family = text(metric_name)?;
        let name = text(name)?;
        let suffix = name.strip_prefix(&*family).unwrap_or_default().to_owned();
        let mut labels = texts(labelnames)?.into_iter().zip(texts(labelvalues)?).collect::<Vec<_>>();
        labels.sort();
        let help = help_text.map(text).transpose()?.unwrap_or_default();
        let kind = Kind::named(typ, multiprocess_mode.unwrap_or_default());
        let store = kind.and_then(|kind| store(kind, Key { name: family, suffix, labels }, &help));
        Ok(Value { store: store.unwrap_or(Store::Own(AtomicU64::new(0))), exemplar: Mutex::new(None) })
    }

    fn inc(&self, amount: f64) {
        series::add(self.cell(), amount);
    }

    #[pyo3(signature = (value, timestamp=None))]
    fn set(&self, value: f64, timestamp: Option<f64>) {
        series::set(self.cell(), value);
        if let (Store::Gauge(gauge), Some(time)) = (&self.store, timestamp) {
            series::set(gauge.time(), time);
        }
    }

    fn get(&self) -> f64 {
        series::value(self.cell())
    }

    fn set_exemplar(&self, exemplar: &Bound<PyAny>) {
        if let (Store::Shared(shared), Ok(text)) = (&self.store, exemplar_text(exemplar)) {
            shared.set_exemplar(&text);
        }
        let before = self.exemplar().replace(exemplar.clone().unbind());
        // Not within the lock: what ends with it may run Python.
        drop(before);
    }

    fn get_exemplar(&self, py: Python) -> Option<Py<PyAny>> {
        self.exemplar().as_ref().map(|exemplar| exemplar.clone_ref(py))
    }
}

/// Where a value is kept, if there is room.
fn store(kind: Kind, key: Key, help: &str) -> Option<Store> {
    let (metrics, generation) = *SHARED.get()?;
    let entry = metrics.declare(kind, &key.name, help, generation).and_then(|()| metrics.value(kind, &key));
    match entry {
        Ok(entry) if matches!(kind, Kind::Gauge(_)) => Gauge::of(entry.cells()).map(Store::Gauge),
        Ok(entry) => Shared::of(entry).map(Store::Shared),
        Err(full) => {
            if full.first {
                tracing::warn!(
                    "there is no room for more of the site's own metrics: {} is not in /metrics, and what follows may not be; give labels fewer values",
                    key.name
                );
            }
            None
        }
    }
}

/// A tuple of labels, value and time.
fn exemplar_text(exemplar: &Bound<PyAny>) -> PyResult<String> {
    let (labels, value, time): (Bound<PyDict>, f64, Option<f64>) = exemplar.extract()?;
    let labels: Vec<_> =
        labels.iter().map(|(name, value)| Ok((text(&name)?, text(&value)?))).collect::<PyResult<_>>()?;
    Ok(exemplar::text(&labels, value, time))
}

/// Whatever the text is: a lone surrogate is no reason to fail.
fn text(value: &Bound<PyAny>) -> PyResult<String> {
    Ok(value.str()?.to_string_lossy().into_owned())
}

fn texts(values: &Bound<PyAny>) -> PyResult<Vec<String>> {
    values.try_iter()?.map(|value| text(&value?)).collect()
}
