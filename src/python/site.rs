//! Finds a site's packages and loads its application, as mod_wsgi does.

use std::path::{Path, PathBuf};

use pyo3::exceptions::{PyImportError, PySystemExit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::config::Settings;
use crate::control::{ImportError, Site};
use crate::exit::{Code, one_line};
use crate::python::{abi, interpreter, log_records};
use crate::wsgi::log_stream::{self, LogStream, traceback};

/// The version that this binary embeds, as `3.13`.
pub const PYTHON_MINOR: &str = env!("ATRIO_PYTHON");

/// Characters of a message that ends the process: an exception's text can be of any length.
const ADVICE: usize = 2000;

/// The virtual environment of a site: `ATRIO_VENV`, else `.venv` beside its script.
pub fn venv(settings: &Settings, site: &Site) -> Result<Option<PathBuf>, ImportError> {
    let wrong = |advice: String| Err(ImportError { advice, code: Code::Config });
    let Some(venv) = settings
        .venv
        .as_ref()
        .map(|venv| site.folder.join(venv))
        .or_else(|| Some(site.folder.join(".venv")).filter(|venv| venv.is_dir()))
    else {
        return Ok(None);
    };
    if !venv.join("pyvenv.cfg").is_file() {
        let shown = venv.display();
        return wrong(format!(
            "{shown} is not a virtual environment: it has no pyvenv.cfg; make one with: atrio python -m venv {shown}"
        ));
    }
    if !venv.join(format!("lib/python{PYTHON_MINOR}")).is_dir() {
        return wrong(format!(
            "the virtual environment {shown} was made for another Python, and this is Python {PYTHON_MINOR}; make it anew with: atrio python -m venv --clear {shown}",
            shown = venv.display()
        ));
    }
    Ok(Some(venv))
}

/// Where Python should take itself to be, so that `sys.prefix` and `site` find the virtual environment.
pub fn program(venv: Option<&Path>) -> PathBuf {
    venv.map_or_else(interpreter::binary, |venv| venv.join("bin/python3"))
}

/// Prepares `sys` for a site: streams and log records that name requests, `sys.executable`, and the folders to import from, with that of the packages
/// that were installed for the site.
pub fn prepare(py: Python, settings: &Settings, site: &Site, installed: Option<&Path>) -> PyResult<()> {
    let sys = py.import("sys")?;
    for (name, fd) in [("stdout", 1), ("stderr", 2)] {
        let stream = Bound::new(py, LogStream::new(name, fd))?;
        sys.setattr(name, &stream)?;
        sys.setattr(format!("__{name}__"), stream)?;
    }
    log_records::tag(py)?;
    let binary = interpreter::binary();
    sys.setattr("executable", binary.as_os_str())?;
    sys.setattr("_base_executable", binary.as_os_str())?;
    sys.setattr("argv", [site.folder.join(&settings.script).as_os_str()])?;
    let path = sys.getattr("path")?.cast_into::<PyList>()?;
    let beside = Some(site.folder.join("site-packages")).filter(|folder| folder.is_dir());
    add_packages(py, &path, beside.as_deref().into_iter().chain(installed))?;
    for folder in settings.python_path.iter().rev() {
        path.insert(0, site.folder.join(folder).as_os_str())?;
    }
    path.insert(0, site.folder.as_os_str())
}

/// Puts folders of packages where such folders stand: behind the standard library, but before the others. Their .pth files count.
fn add_packages<'a>(py: Python, path: &Bound<PyList>, folders: impl Iterator<Item = &'a Path>) -> PyResult<()> {
    let known: Vec<String> = path.extract()?;
    for folder in folders {
        py.import("site")?.call_method1("addsitedir", (folder.as_os_str(),))?;
    }
    let is_packages = |folder: &String| folder.ends_with("/site-packages") || folder.ends_with("/dist-packages");
    let before = known.iter().position(is_packages).unwrap_or(known.len());
    let added: Vec<String> = path.extract::<Vec<String>>()?.into_iter().filter(|p| !known.contains(p)).collect();
    for folder in added.iter().rev() {
        path.call_method1("remove", (folder,))?;
        path.insert(before, folder)?;
    }
    Ok(())
}

/// Executes the site's script and returns its application.
pub fn load(py: Python, settings: &Settings, site: &Site) -> Result<Py<PyAny>, ImportError> {
    let script = site.folder.join(&settings.script);
    let failed = |error: PyErr| {
        let advice = one_line(&explain(py, &error, &script, site)).chars().take(ADVICE).collect();
        ImportError { advice, code: Code::Config }
    };
    let module = execute(py, &script);
    // What the import printed without an end of line.
    log_stream::flush();
    let module = module.map_err(|error| {
        tracing::error!(
            site = site.name,
            "importing {} failed\n{}",
            script.display(),
            traceback(py, &error).trim_end()
        );
        failed(error)
    })?;
    let missing = |what: &str| ImportError {
        advice: format!(
            "{} {what} `{}`; declare application(environ, start_response), or name it with ATRIO_CALLABLE",
            script.display(),
            settings.callable
        ),
        code: Code::Config,
    };
    let application =
        module.getattr_opt(&*settings.callable).map_err(failed)?.ok_or_else(|| missing("does not declare"))?;
    if !application.is_callable() {
        return Err(missing("has something that cannot be called under the name"));
    }
    Ok(application.unbind())
}

/// Executes the script. `root.py` becomes the module `root`, so that `import root` elsewhere in the site finds it; a script of another
/// suffix must not hide a package of its name (`shop.wsgi` and `import shop`).
///
/// The script is always compiled anew: a reload shows a change that the time stamp of a `.pyc` would hide.
fn execute<'py>(py: Python<'py>, script: &Path) -> PyResult<Bound<'py, PyAny>> {
    let stem = script.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "__main__");
    let name = stem.filter(|_| script.extension() == Some("py".as_ref())).unwrap_or("atrio_script");
    let util = py.import("importlib.util")?;
    let path = script.as_os_str();
    let loader = py.import("importlib.machinery")?.call_method1("SourceFileLoader", (name, path))?;
    let options = PyDict::new(py);
    options.set_item("loader", &loader)?;
    let spec = util.call_method("spec_from_file_location", (name, path), Some(&options))?;
    let module = util.call_method1("module_from_spec", (spec,))?;
    let modules = py.import("sys")?.getattr("modules")?;
    modules.set_item(name, &module)?;
    let run = || {
        let source = loader.call_method1("get_data", (path,))?;
        let code = loader.call_method1("source_to_code", (source, path))?;
        py.import("builtins")?.call_method1("exec", (code, module.getattr("__dict__")?))
    };
    if let Err(error) = run() {
        modules.del_item(name)?;
        return Err(error);
    }
    Ok(module)
}

/// One sentence on a failed import, with what to do.
fn explain(py: Python, error: &PyErr, script: &Path, site: &Site) -> String {
    let shown = script.display();
    if let Some(reason) = abi::explain(py, error) {
        return format!("{shown} cannot be imported: {reason}");
    }
    let missing = error.is_instance_of::<PyImportError>(py).then(|| error.value(py).getattr("name").ok()).flatten();
    if let Some(name) = missing.and_then(|name| name.extract::<String>().ok()) {
        let folder = site.folder.join("site-packages");
        return format!(
            "{shown} cannot be imported: {}; install what provides `{name}` with: atrio pip install --target {} NAME",
            error.value(py),
            folder.display()
        );
    }
    if error.is_instance_of::<PySystemExit>(py) {
        return format!(
            "{shown} called sys.exit() while it was imported; put that behind: if __name__ == \"__main__\""
        );
    }
    let kind = error.get_type(py).name().map_or_else(|_| "an exception".into(), |name| name.to_string());
    format!("{shown} cannot be imported: {kind}: {}; mend what the traceback above shows", error.value(py))
}

/// What importing the site left that must not be shared over a fork: threads, and open sockets.
pub fn unforkable(py: Python, sockets_before: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut tasks = tasks();
    // A thread that has just been joined is listed for a moment longer.
    for _ in 0..10 {
        if tasks > 1 {
            std::thread::sleep(std::time::Duration::from_millis(2));
            tasks = self::tasks();
        }
    }
    if tasks > 1 {
        let names = py
            .import("threading")
            .and_then(|threading| threading.call_method0("enumerate"))
            .and_then(|threads| threads.try_iter()?.map(|t| t?.getattr("name")?.extract::<String>()).collect());
        let names: Vec<String> = names.unwrap_or_default();
        let names: Vec<String> = names.into_iter().filter(|name| name != "MainThread").collect();
        found.push(format!("{} running ({})", plural(tasks - 1, "thread"), list(&names)));
    }
    let sockets = sockets().into_iter().filter(|socket| !sockets_before.contains(socket)).count();
    if sockets > 0 {
        found.push(format!("{} open", plural(sockets, "socket")));
    }
    found
}

/// The threads of this process.
fn tasks() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "not Python's".into() } else { names.join(", ") }
}

/// The open sockets of this process, as the kernel names them.
pub fn sockets() -> Vec<String> {
    let Ok(fds) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()?.into_os_string().into_string().ok())
        .filter(|target| target.starts_with("socket:"))
        .collect()
}
