//! Links the binary with the interpreter that pyo3 was configured for, and makes it the one found at run time.
//!
//! Normally that is a shared libpython of this machine. With `ATRIO_STATIC_PYTHON`, a folder with one for each
//! architecture that is built, libpython becomes part of the binary, and its standard library is looked for beside it:
//! `../lib/python3.X`. That is what the image and the archives for bare hosts are made of.

use std::path::{Path, PathBuf};

use pyo3_build_config::InterpreterConfig;

const STATIC_PYTHON: &str = "ATRIO_STATIC_PYTHON";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={STATIC_PYTHON}");
    let python = pyo3_build_config::get();
    println!("cargo:rustc-env=ATRIO_PYTHON={}.{}", python.version().major, python.version().minor);
    match std::env::var_os(STATIC_PYTHON) {
        Some(folder) => link_statically(&PathBuf::from(folder).join(architecture())),
        None => link_with_shared(python),
    }
    // Extension modules resolve CPython's symbols from the executable when libpython is linked statically.
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=Py*,--export-dynamic-symbol=_Py*");
}

fn architecture() -> String {
    std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it")
}

fn link_with_shared(python: &InterpreterConfig) {
    println!("cargo:rustc-env=ATRIO_PYTHON_PREFIX={}", prefix(python.executable().unwrap_or("python3")));
    if let Some(folder) = python.lib_dir() {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
}

/// Puts every object of the folder's libpython.a into the binary, for wheels may want any of them, then what they need.
fn link_statically(folder: &Path) {
    let folder = folder.display();
    println!("cargo:rerun-if-changed={folder}");
    let library = format!("-Wl,--whole-archive,{folder}/libpython.a,--no-whole-archive");
    // Debian's libpython.a lacks SHA-2, which is an object of its own.
    let objects = [format!("{folder}/sha2.o"), format!("-L{folder}")];
    // The C library once more, for what only libpython wants of it.
    let libraries = ["-lexpat", "-lz", "-lm", "-ldl", "-lc", "-lgcc"].map(str::to_owned);
    // RPATH, which unlike RUNPATH counts for extension modules too: an archive brings its libraries along.
    let rpath = "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib".to_owned();
    for argument in [library].into_iter().chain(objects).chain(libraries).chain([rpath]) {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}

/// Where the standard library of the interpreter is.
fn prefix(executable: &str) -> String {
    let print = ["-c", "import sys; print(sys.base_prefix)"];
    let output = std::process::Command::new(executable).args(print).output();
    let output = output.unwrap_or_else(|error| panic!("{executable} cannot be run: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
