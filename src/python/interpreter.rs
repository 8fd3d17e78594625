//! Starts CPython (PEP 587): the `unsafe` of CPython.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pyo3::ffi;

/// What makes the embedded interpreter this machine's and this site's.
#[derive(Debug, Default)]
pub struct Start {
    /// Where Python takes itself to be: `sys.prefix` follows from it. In a virtual environment `<venv>/bin/python3`.
    pub program: PathBuf,
    /// `sys.argv` and the options before it, program name first.
    pub args: Vec<std::ffi::OsString>,
}

/// A PyConfig that is cleared when dropped.
struct Config(ffi::PyConfig);

impl Config {
    fn python() -> Self {
        let mut config = std::mem::MaybeUninit::uninit();
        // SAFETY: PyConfig_InitPythonConfig fills the whole structure, and only it.
        unsafe {
            ffi::PyConfig_InitPythonConfig(config.as_mut_ptr());
            Config(config.assume_init())
        }
    }

    fn set(&mut self, field: fn(&mut ffi::PyConfig) -> *mut *mut libc::wchar_t, value: &OsStr) -> Result<(), String> {
        let value = CString::new(value.as_bytes()).map_err(|_| "a path has a NUL byte")?;
        let field = field(&mut self.0);
        // SAFETY: `field` points into this config, which owns the string that is set; `value` outlives the call.
        check(unsafe { ffi::PyConfig_SetBytesString(&mut self.0, field, value.as_ptr()) })
    }

    /// Tells Python where it is. PYTHONHOME would put another interpreter's standard library in place of this one's.
    fn place(&mut self, program: &Path) -> Result<(), String> {
        let prefix = prefix()?;
        if std::env::var_os("PYTHONHOME").is_some() {
            self.set(|c| &mut c.home, prefix.as_os_str())?;
        }
        self.set(|c| &mut c.program_name, program.as_os_str())
    }

    fn args(&mut self, args: &[std::ffi::OsString]) -> Result<(), String> {
        let args: Result<Vec<CString>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
        let args = args.map_err(|_| "an argument has a NUL byte")?;
        let mut pointers: Vec<*mut libc::c_char> = args.iter().map(|arg| arg.as_ptr().cast_mut()).collect();
        // SAFETY: `pointers` holds as many valid strings as its length says; CPython only copies them.
        let count = pointers.len() as isize;
        check(unsafe { ffi::PyConfig_SetBytesArgv(&mut self.0, count, pointers.as_mut_ptr().cast()) })
    }

    fn initialize(&mut self) -> Result<(), String> {
        // SAFETY: called once in this process, on its main thread, before any other use of Python.
        check(unsafe { ffi::Py_InitializeFromConfig(&self.0) })
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: the config was initialised, and is not used afterwards.
        unsafe { ffi::PyConfig_Clear(&mut self.0) }
    }
}

fn check(status: ffi::PyStatus) -> Result<(), String> {
    // SAFETY: these read the value only; the message is a static string or null.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        if ffi::PyStatus_IsExit(status) != 0 {
            std::process::exit(status.exitcode);
        }
        let text = |pointer: *const libc::c_char| {
            (!pointer.is_null()).then(|| std::ffi::CStr::from_ptr(pointer).to_string_lossy().into_owned())
        };
        Err(text(status.err_msg).unwrap_or_else(|| "the interpreter could not be started".into()))
    }
}

/// Starts Python to serve a site. This thread becomes Python's main thread, and is not attached.
///
/// `PYTHON*` variables count as for `python3`, except PYTHONHOME: the standard library is the one that belongs to this binary.
pub fn start(start: &Start) -> Result<(), String> {
    let mut config = Config::python();
    config.0.parse_argv = 0;
    // No test of the terminal: a site has none.
    config.0.buffered_stdio = 1;
    config.args(&start.args)?;
    config.place(&start.program)?;
    config.initialize()?;
    // SAFETY: the thread is attached, for it has just initialised Python; it attaches anew where it needs Python.
    unsafe { ffi::PyEval_SaveThread() };
    Ok(())
}

/// Behaves as `python3` with these arguments; returns its exit code.
pub fn main(start: &Start) -> Result<i32, String> {
    let mut config = Config::python();
    // First, for they may choose the encoding that all other text is decoded with (-X utf8).
    config.args(&start.args)?;
    config.place(&start.program)?;
    config.initialize()?;
    // SAFETY: Python was initialised by this thread, which is attached; Py_RunMain finalises it.
    Ok(unsafe { ffi::Py_RunMain() })
}

/// The folder that has the standard library in its `lib`: the one above the binary's folder if libpython is part of the binary.
///
/// Python would look on in `/usr` for a library that is not there, and might find another version's.
fn prefix() -> Result<PathBuf, String> {
    if let Some(prefix) = option_env!("ATRIO_PYTHON_PREFIX") {
        return Ok(prefix.into());
    }
    let binary = binary();
    let folder = binary.parent().unwrap_or(Path::new("/"));
    let prefix = copied_from(folder).unwrap_or(folder.to_owned()).parent().unwrap_or(Path::new("/")).to_owned();
    let library = prefix.join(concat!("lib/python", env!("ATRIO_PYTHON")));
    if library.join("os.py").is_file() {
        return Ok(prefix);
    }
    Err(format!("its standard library is not in {}; keep the folders that atrio came with together", library.display()))
}

/// Where the binary of a folder was copied from, if the folder is a virtual environment's: its `pyvenv.cfg` says so.
fn copied_from(folder: &Path) -> Option<PathBuf> {
    let config = std::fs::read_to_string(folder.parent()?.join("pyvenv.cfg")).ok()?;
    let settings = config.lines().filter_map(|line| line.split_once('='));
    settings
        .map(|(name, value)| (name.trim(), value.trim()))
        .find(|(name, _)| *name == "home")
        .map(|(_, home)| home.into())
}

/// The path of this binary, the `sys.executable` of what runs in it.
pub fn binary() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| Path::new("/proc/self/exe").to_owned())
}
