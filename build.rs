//! Links the binary with the interpreter that pyo3 was configured for, and makes it the one found at run time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!(
        "cargo:rustc-env=ATRIO_PYTHON={}.{}",
        pyo3_build_config::get().version().major,
        pyo3_build_config::get().version().minor
    );
    let python = pyo3_build_config::get();
    println!("cargo:rustc-env=ATRIO_PYTHON_PREFIX={}", prefix(python.executable().unwrap_or("python3")));
    if let Some(folder) = python.lib_dir() {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
    // Extension modules resolve CPython's symbols from the executable when libpython is linked statically.
    println!("cargo:rustc-link-arg-bins=-Wl,--export-dynamic-symbol=Py*,--export-dynamic-symbol=_Py*");
}

/// Where the standard library of the interpreter is.
fn prefix(executable: &str) -> String {
    let print = ["-c", "import sys; print(sys.base_prefix)"];
    let output = std::process::Command::new(executable).args(print).output();
    let output = output.unwrap_or_else(|error| panic!("{executable} cannot be run: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
