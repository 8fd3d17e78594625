//! Records of the site's `logging` name the request that they belong to.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::wsgi::log_stream::current_ids;

/// Waits for the import of `logging`, which not every site needs, and then gives each record `request_id` and `trace_id`, unless the site
/// gives it those itself: `makeRecord` refuses what `extra` has and the record has already, so they come after it.
const HOOK: &std::ffi::CStr = cr#"
import sys


def install(logging):
    make = logging.Logger.makeRecord

    def makeRecord(self, *args, **kwargs):
        record = make(self, *args, **kwargs)
        for name, value in zip(("request_id", "trace_id"), current_ids()):
            record.__dict__.setdefault(name, value)
        return record

    logging.Logger.makeRecord = makeRecord


class Loader:
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        install(module)


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader = Loader(spec.loader)
                return spec
        return None


if "logging" in sys.modules:
    install(sys.modules["logging"])
else:
    sys.meta_path.insert(0, Finder())
"#;

/// Called before the site is imported.
pub fn tag(py: Python) -> PyResult<()> {
    let names = PyDict::new(py);
    names.set_item("current_ids", wrap_pyfunction!(current_ids, py)?)?;
    py.run(HOOK, Some(&names), None)
}
