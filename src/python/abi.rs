//! Recognises, in a failed import, a compiled module that was made for another Python or machine, or that cannot be loaded here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

use crate::python::site::PYTHON_MINOR;

/// Exceptions that are looked at behind one another: packages wrap the reason in a text of their own.
const DEPTH: usize = 8;

/// Why the import failed, in a sentence with what to do, if a compiled module is the reason.
pub fn explain(py: Python, error: &PyErr) -> Option<String> {
    let mut next = Some(error.clone_ref(py));
    for _ in 0..DEPTH {
        let error = next?;
        if error.is_instance_of::<PyImportError>(py)
            && let Some(found) = unloadable(py, &error).or_else(|| foreign(py, &error))
        {
            return Some(found);
        }
        next = error.cause(py).or_else(|| error.value(py).getattr("__context__").ok().and_then(of));
    }
    None
}

fn of(value: Bound<PyAny>) -> Option<PyErr> {
    (!value.is_none()).then(|| PyErr::from_value(value))
}

/// The file was found, but the system's loader refused it.
fn unloadable(py: Python, error: &PyErr) -> Option<String> {
    let path: PathBuf = error.value(py).getattr("path").ok()?.extract().ok()?;
    let text = error.value(py).to_string();
    let is_module = path.extension().is_some_and(|suffix| suffix == "so");
    let shown = path.display();
    if !is_module {
        return None;
    }
    if let (made, Some(here)) = (machine(&path), machine(Path::new("/proc/self/exe")))
        && made.as_ref() != Some(&here)
    {
        return Some(wrong(py, &path, &made.unwrap_or_else(|| "another system".into())));
    }
    if text.contains("failed to map segment") {
        return Some(format!(
            "{shown} may not be executed, for its filesystem is mounted noexec; mount it with exec (docker run --tmpfs /tmp:exec), or install elsewhere with ATRIO_CACHE"
        ));
    }
    if let Some(library) = text.strip_suffix(": cannot open shared object file: No such file or directory") {
        return Some(format!(
            "{shown} needs the library {library}, which is not here; install it, or a package that brings it along"
        ));
    }
    if text.contains("' not found (required by") {
        return Some(format!("{shown} needs newer system libraries ({text}); choose an older version of its package"));
    }
    None
}

/// The module was not found, but there is a file of its name for others.
fn foreign(py: Python, error: &PyErr) -> Option<String> {
    let suffixes: Vec<String> =
        py.import("importlib.machinery").ok()?.call_method0("all_suffixes").ok()?.extract().ok()?;
    let folders: Vec<PathBuf> = py.import("sys").ok()?.getattr("path").ok()?.extract().ok()?;
    let name = missing(py, error)?;
    let mut parts: Vec<&str> = name.split('.').collect();
    let module = parts.pop()?;
    folders.iter().find_map(|folder| {
        let folder = parts.iter().fold(folder.clone(), |folder, part| folder.join(part));
        let entries = std::fs::read_dir(&folder).ok()?.flatten();
        let files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        let (file, made) = made_for_others(module, &files, &suffixes)?;
        Some(wrong(py, &folder.join(file), &made))
    })
}

/// The dotted name of the module that was not found.
fn missing(py: Python, error: &PyErr) -> Option<String> {
    let value = error.value(py);
    let name: String = value.getattr("name").ok()?.extract().ok()?;
    // As in "cannot import name 'etree' from 'lxml'".
    let text = value.to_string();
    let within = text.strip_prefix("cannot import name '").and_then(|rest| rest.split('\'').next());
    Some(within.map_or(name.clone(), |inner| format!("{name}.{inner}")))
}

/// Of the files of a folder one that is the module for others, and for whom; `None` if there is one for this interpreter.
fn made_for_others<'a>(module: &str, files: &'a [String], suffixes: &[String]) -> Option<(&'a str, String)> {
    let rests = files.iter().filter_map(|file| Some((file.as_str(), file.strip_prefix(module)?)));
    let mut others = Vec::new();
    for (file, rest) in rests {
        if rest.is_empty() || suffixes.iter().any(|suffix| suffix == rest) {
            return None;
        }
        let tag = rest.strip_prefix('.').and_then(|rest| rest.strip_suffix(".so").or(rest.strip_suffix(".pyd")));
        others.extend(tag.and_then(audience).map(|made| (file, made)));
    }
    others.into_iter().next()
}

/// From `cpython-312-x86_64-linux-gnu` to "Python 3.12 on x86_64"; from `cp312-win_amd64` to "Python 3.12 on win_amd64".
fn audience(tag: &str) -> Option<String> {
    let rest = tag.strip_prefix("cpython-").or(tag.strip_prefix("cp"))?;
    let (version, platform) = rest.split_once('-')?;
    let minor = version.strip_prefix('3')?;
    let musl = if platform.ends_with("-musl") { " with musl" } else { "" };
    let platform = platform.split("-linux-").next().unwrap_or(platform);
    (minor.starts_with(|c: char| c.is_ascii_digit())).then(|| format!("Python 3.{minor} on {platform}{musl}"))
}

/// The processor that an ELF file is for; `None` for what is no ELF file.
fn machine(path: &Path) -> Option<String> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let number = [head[18], head[19]];
    let number = if head[5] == 2 { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
    Some(match number {
        3 => "i386".into(),
        21 => "ppc64".into(),
        22 => "s390x".into(),
        40 => "arm".into(),
        62 => "x86_64".into(),
        183 => "aarch64".into(),
        243 => "riscv".into(),
        other => format!("machine {other}"),
    })
}

/// The sentence on a file that was `made` for others.
fn wrong(py: Python, file: &Path, made: &str) -> String {
    let here = format!("Python {PYTHON_MINOR} on {}", std::env::consts::ARCH);
    let folder = packages_folder(py, file);
    let top = folder.as_ref().and_then(|folder| file.strip_prefix(folder).ok()?.iter().next());
    let top = top.map(|name| name.to_string_lossy().split('.').next().unwrap_or_default().to_owned());
    let package = top.as_deref().map(|top| distribution(py, top).unwrap_or_else(|| top.to_owned()));
    let (Some(folder), Some(package)) = (folder, package) else {
        return format!("{} was made for {made}, and this is {here}; install its package anew", file.display());
    };
    let venv = folder.ancestors().nth(3).filter(|venv| venv.join("pyvenv.cfg").is_file());
    let remedy = match venv {
        Some(venv) => format!("{}/bin/python -m pip install --force-reinstall {package}", venv.display()),
        None => format!("atrio pip install --upgrade --target {} {package}", folder.display()),
    };
    format!("{package} in {} was made for {made}, and this is {here}; install it anew with: {remedy}", folder.display())
}

/// The folder of `sys.path` that the file is in.
fn packages_folder(py: Python, file: &Path) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = py.import("sys").ok()?.getattr("path").ok()?.extract().ok()?;
    let inside = folders.into_iter().filter(|folder| file.starts_with(folder) && !folder.as_os_str().is_empty());
    inside.max_by_key(|folder| folder.as_os_str().len())
}

/// What pip calls the package with this module.
fn distribution(py: Python, module: &str) -> Option<String> {
    let known = py.import("importlib.metadata").ok()?.call_method0("packages_distributions").ok()?;
    known.get_item(module).ok()?.get_item(0).ok()?.extract().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_tell_for_whom_a_module_is() {
        assert_eq!(audience("cpython-312-x86_64-linux-gnu").as_deref(), Some("Python 3.12 on x86_64"));
        assert_eq!(audience("cpython-313t-aarch64-linux-musl").as_deref(), Some("Python 3.13t on aarch64 with musl"));
        assert_eq!(audience("cp39-win_amd64").as_deref(), Some("Python 3.9 on win_amd64"));
        assert_eq!(audience("cpython-311-darwin").as_deref(), Some("Python 3.11 on darwin"));
        assert_eq!(audience("abi3"), None);
        assert_eq!(audience("cpython-x"), None);
    }

    #[test]
    fn only_a_module_that_is_not_there_for_this_interpreter_is_others() {
        let suffixes: Vec<String> =
            [".py", ".cpython-313-x86_64-linux-gnu.so", ".abi3.so", ".so"].map(Into::into).into();
        let others = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
            made_for_others("_x", &files, &suffixes).map(|(file, made)| (file.to_owned(), made))
        };
        let foreign = "_x.cpython-312-aarch64-linux-gnu.so";
        assert_eq!(others(&["__init__.py", foreign]), Some((foreign.into(), "Python 3.12 on aarch64".into())));
        assert_eq!(others(&[foreign, "_x.py"]), None);
        assert_eq!(others(&[foreign, "_x.abi3.so"]), None);
        assert_eq!(others(&[foreign, "_x"]), None);
        assert_eq!(others(&["_x.txt", "_xy.cpython-312-aarch64-linux-gnu.so"]), None);
    }

    #[test]
    fn the_machine_of_an_elf_file_is_read() {
        assert_eq!(machine(Path::new("/proc/self/exe")).as_deref(), Some(std::env::consts::ARCH));
        assert_eq!(machine(Path::new("/proc/self/status")), None);
    }
}
