//! `wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling").

use std::fs::File;
use std::os::unix::fs::MetadataExt;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::os;

/// What is read at once at the least: a site's block size is often that of a page.
const BLOCK: usize = 64 * 1024;

/// A file as an iterable of blocks, from its current position to its end.
#[pyclass(frozen, module = "atrio")]
pub struct FileWrapper {
    #[pyo3(get)]
    filelike: Py<PyAny>,
    #[pyo3(get)]
    block_size: usize,
}

impl FileWrapper {
    /// The file, where it stands and its size, if what the site gave is a plain file of the disk and nothing else: it can be read without
    /// Python then. Of other classes nobody knows whether they give out what is in their file.
    pub fn plain(&self, py: Python) -> PyResult<Option<(File, u64, u64)>> {
        static TYPES: PyOnceLock<[Py<PyType>; 3]> = PyOnceLock::new();
        let [raw, reader, random] = TYPES.get_or_try_init(py, || {
            let io = py.import("io")?;
            let class = |name| io.getattr(name)?.cast_into::<PyType>().map(Bound::unbind).map_err(PyErr::from);
            PyResult::Ok([class("FileIO")?, class("BufferedReader")?, class("BufferedRandom")?])
        })?;
        let file = self.filelike.bind(py);
        let is = |file: &Bound<PyAny>, class: &Py<PyType>| file.get_type().is(class);
        if is(file, random) {
            file.call_method0(intern!(py, "flush"))?;
        } else if !is(file, reader) && !is(file, raw) {
            return Ok(None);
        }
        if !is(file, raw) && !is(&file.getattr(intern!(py, "raw"))?, raw) {
            return Ok(None);
        }
        let fd = os::duplicate_of(file.call_method0(intern!(py, "fileno"))?.extract()?)?;
        let plain = File::from(fd);
        let metadata = plain.metadata()?;
        // Files that the kernel makes as they are read (/proc, /sys) take no place, and their size says nothing.
        if !metadata.is_file() || metadata.blocks() == 0 {
            return Ok(None);
        }
        Ok(Some((plain, file.call_method0(intern!(py, "tell"))?.extract()?, metadata.len())))
    }
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, block_size=BLOCK))]
    fn new(filelike: Py<PyAny>, block_size: usize) -> Self {
        FileWrapper { filelike, block_size }
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let block = self.filelike.bind(py).call_method1(intern!(py, "read"), (self.block_size.max(BLOCK),))?;
        Ok(block.is_truthy()?.then_some(block))
    }

    /// Closes the file, if it can be closed.
    fn close(&self, py: Python) -> PyResult<()> {
        match self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }
}
