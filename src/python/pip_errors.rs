//! Why pip failed, from what it has said: one sentence, with what to do.

use crate::exit::{Code, Failure};
use crate::python::site::PYTHON_MINOR;

/// What an installation was asked for.
pub struct Context {
    /// The file of requirements.
    pub file: String,
    /// The folder that packages were taken from, and the names in it.
    pub wheels: Option<(String, Vec<String>)>,
}

/// The reason for a failure of pip that ended with `status`.
pub fn diagnose(lines: &[String], status: &str, context: &Context) -> Failure {
    let Context { file, wheels } = context;
    let here = format!("Python {PYTHON_MINOR} on {}", std::env::consts::ARCH);
    let has = |words: &str| lines.iter().any(|line| line.contains(words));
    let after = |words: &str| lines.iter().find_map(|line| Some(line.split_once(words)?.1.trim()));
    if has("No module named pip") {
        return Failure::config(format!(
            "{file} cannot be installed: this Python has no pip; install it (Debian: python3-pip), or set ATRIO_REQUIREMENTS=off"
        ));
    }
    if has("No space left on device") || has("Disk quota exceeded") {
        return Failure::new(
            Code::Io,
            format!("{file} cannot be installed: the disk is full; make room, or name another folder with ATRIO_CACHE"),
        );
    }
    if has("CERTIFICATE_VERIFY_FAILED") || has("confirming the ssl certificate") {
        return Failure::new(
            Code::Unavailable,
            format!(
                "{file} cannot be installed: the certificate of the package index is not trusted; name its authority with PIP_CERT"
            ),
        );
    }
    if lines.iter().any(|line| is_cut_off(line)) {
        return Failure::new(
            Code::Unavailable,
            format!(
                "{file} cannot be installed: the package index cannot be reached; connect this machine, or put the wheels into a folder wheels/ beside it"
            ),
        );
    }
    if let Some(wheel) = after("ERROR: ").filter(|line| line.contains("is not a supported wheel on this platform")) {
        let wheel = wheel.split(' ').next().unwrap_or_default();
        return Failure::config(format!(
            "{file}: {wheel} was made for another Python or machine, and this is {here}; take the wheel for that"
        ));
    }
    if let Some(package) = unbuilt(lines) {
        let compiler = lines.iter().any(|line| misses_compiler(line));
        let why =
            if compiler { "there is no compiler here to build it" } else { "building it failed as the log shows" };
        return Failure::config(format!(
            "{file}: {package} has no wheel for {here}, and {why}; choose a version that has one, or put a wheel of it into a folder wheels/ beside the file"
        ));
    }
    if let Some(wanted) = after("No matching distribution found for ") {
        return Failure::config(unfound(wanted, after("(from versions: "), context, &here));
    }
    if has("ResolutionImpossible") || has("conflicting dependencies") {
        let why = after("The conflict is caused by:").filter(|why| !why.is_empty());
        let why = why.or(after("ERROR: ")).unwrap_or_default();
        return Failure::config(format!("{file}: the packages contradict each other: {why}; loosen their versions"));
    }
    let said =
        lines.iter().rev().find_map(|line| line.trim().strip_prefix("ERROR: ")).or(lines.last().map(|l| l.trim()));
    let said = said.map_or_else(|| status.to_owned(), |line| line.chars().take(400).collect());
    let source = wheels.as_ref().map_or(String::new(), |(folder, _)| format!(" from {folder}"));
    Failure::config(format!("{file} cannot be installed{source}: {said}; mend the file, or set ATRIO_REQUIREMENTS=off"))
}

/// The network failed for good: a try after which another one came is no reason.
fn is_cut_off(line: &str) -> bool {
    match line.split_once("connection broken by") {
        Some((retry, _)) => retry.contains("total=0"),
        None => ["Max retries exceeded", "Read timed out", "ProxyError"].iter().any(|words| line.contains(words)),
    }
}

/// As in `error: command 'gcc' failed: No such file or directory`, or `[Errno 2] No such file or directory: 'gcc'`.
fn misses_compiler(line: &str) -> bool {
    let is_compiler = |name: &str| ["cc", "c++", "g++", "clang"].iter().any(|suffix| name.ends_with(suffix));
    let failed = line.contains("No such file or directory") || line.contains("nable to execute");
    failed && line.split('\'').any(is_compiler)
}

/// The package that could not be built.
fn unbuilt(lines: &[String]) -> Option<String> {
    let is_failure = |line: &&String| {
        ["subprocess-exited-with-error", "metadata-generation-failed", "legacy-install-failure"]
            .iter()
            .any(|words| line.contains(words))
    };
    let failed = lines.iter().find(is_failure)?;
    let named = lines.iter().find_map(|line| {
        let line = line.trim();
        let name = line.strip_prefix("ERROR: Failed building wheel for ").or(line.strip_prefix("Failed to build "))?;
        Some(name.split(' ').next().unwrap_or(name).to_owned())
    });
    // What pip was at when the first failure came.
    let last = || {
        let before = lines.iter().take_while(|line| *line != failed);
        let begun = before.filter_map(|line| {
            let rest = line.trim().strip_prefix("Collecting ").or(line.trim().strip_prefix("Processing "))?;
            Some(rest.split([' ', ';']).next().unwrap_or(rest).to_owned())
        });
        begun.last()
    };
    named.or_else(last).or(Some("a package".into()))
}

/// Pip found nothing for what was wanted. `versions` begins the list of those that it did find.
fn unfound(wanted: &str, versions: Option<&str>, context: &Context, here: &str) -> String {
    let file = &context.file;
    let name = wanted.split(|c: char| "=<>!~;[@ (".contains(c)).next().unwrap_or(wanted);
    let versions = versions.map(|rest| rest.split(')').next().unwrap_or(rest)).filter(|versions| *versions != "none");
    if let Some(versions) = versions {
        let last: Vec<&str> = versions.rsplit(", ").take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return format!(
            "{file}: there is no {wanted} for {here}; choose one of the versions that there are ({})",
            last.join(", ")
        );
    }
    let Some((folder, names)) = &context.wheels else {
        return format!(
            "{file}: {wanted} is not on the package index, or has nothing for {here}; correct the name, or choose a version with a wheel for that"
        );
    };
    let normal = |name: &str| name.to_lowercase().replace(['-', '.'], "_");
    let wheel = names.iter().find(|file| {
        file.ends_with(".whl") && file.split('-').next().is_some_and(|first| normal(first) == normal(name))
    });
    match wheel {
        Some(wheel) => {
            format!("{file}: {folder} has {wheel}, and what is wanted is {wanted} for {here}; put that wheel there")
        }
        None => format!("{file}: {folder} has no {wanted}; put a wheel for {here} there, and those that it depends on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the output of pip; for all of it the versions of pip are named that said so.
    fn said(output: &str, wheels: Option<&[&str]>) -> (Code, String) {
        let names = |names: &[&str]| ("wheels".into(), names.iter().map(|name| (*name).to_owned()).collect());
        let context = Context { file: "r.txt".into(), wheels: wheels.map(names) };
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        let failure = diagnose(&lines, "exit status: 1", &context);
        (failure.code, failure.message)
    }

    #[track_caller]
    fn says(output: &str, wheels: Option<&[&str]>, code: Code, words: &[&str]) {
        let (found, message) = said(output, wheels);
        assert_eq!(found, code, "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message:?}");
        }
    }

    const NONE: &str = "ERROR: Could not find a version that satisfies the requirement shop-kit (from versions: none)
ERROR: No matching distribution found for shop-kit";

    #[test]
    fn a_package_that_is_not_found() {
        let machine = std::env::consts::ARCH;
        says(NONE, None, Code::Config, &["shop-kit is not on the package index", PYTHON_MINOR, machine]);
        let other = "ERROR: Could not find a version that satisfies the requirement six==99 (from versions: 1.0b1, 1.0.0, 1.1.0, 1.2.0, 1.3.0, 1.17.0)
ERROR: No matching distribution found for six==99";
        says(other, None, Code::Config, &["there is no six==99", "(1.0.0, 1.1.0, 1.2.0, 1.3.0, 1.17.0)"]);
    }

    #[test]
    fn a_folder_of_wheels_that_lacks_one() {
        says(NONE, Some(&["six-1.0-py3-none-any.whl"]), Code::Config, &["wheels has no shop-kit"]);
        let wheels = ["shop_kit-1.0-cp34-cp34-manylinux1_mips.whl"];
        says(NONE, Some(&wheels), Code::Config, &["wheels has shop_kit-1.0-cp34", "wanted is shop-kit for Python"]);
    }

    #[test]
    fn no_network() {
        // Pip 23.0 and 26.3.
        let old = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError('<x>: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')': /simple/six/";
        let new = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NameResolutionError(\"HTTPSConnection(host='h', port=443): Failed to resolve 'h'\")': /simple/six/";
        for line in [old, new] {
            says(&format!("{line}\n{NONE}"), None, Code::Unavailable, &["cannot be reached", "wheels/"]);
            let once = line.replace("total=0", "total=4");
            says(&format!("{once}\n{NONE}"), None, Code::Config, &["is not on the package index"]);
        }
    }

    #[test]
    fn a_package_that_cannot_be_built() {
        // Pip 26.3.
        let new = "Building wheels for collected packages: brk
  error: subprocess-exited-with-error
      error: [Errno 2] No such file or directory: 'gcc'
  ERROR: Failed building wheel for brk
Failed to build brk
error: failed-wheel-build-for-install";
        says(new, None, Code::Config, &["brk has no wheel for Python", "no compiler", "wheels/"]);
        let other = new.replace("'gcc'", "'README.md'");
        says(&other, None, Code::Config, &["building it failed as the log shows"]);
        assert!(misses_compiler("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory"));
        // Pip 23.0.
        let old = "Collecting six
Collecting brk==2.0
  Downloading brk-2.0.tar.gz (12 kB)
  Preparing metadata (setup.py): finished with status 'error'
  error: subprocess-exited-with-error
      no way
error: metadata-generation-failed";
        says(old, None, Code::Config, &["brk==2.0 has no wheel", "as the log shows"]);
    }

    #[test]
    fn what_is_not_pips_to_mend() {
        says("/usr/bin/atrio: No module named pip", None, Code::Config, &["no pip"]);
        says("OSError: [Errno 28] No space left on device", None, Code::Io, &["disk is full", "ATRIO_CACHE"]);
        let untrusted = "Could not fetch URL https://h/simple/six/: There was a problem confirming the ssl certificate: x - skipping";
        says(&format!("{untrusted}\n{NONE}"), None, Code::Unavailable, &["not trusted", "PIP_CERT"]);
    }

    #[test]
    fn what_is_wrong_in_the_file() {
        let wheel = "ERROR: foo-1.0-cp34-cp34-linux_mips.whl is not a supported wheel on this platform.";
        says(wheel, None, Code::Config, &["foo-1.0-cp34-cp34-linux_mips.whl was made for another Python or machine"]);
        let invalid = "ERROR: Invalid requirement: 'six=1' (from line 1 of r.txt)\nHint: = is not a valid operator.";
        says(invalid, None, Code::Config, &["Invalid requirement: 'six=1' (from line 1 of r.txt)"]);
        let conflict =
            "ERROR: Cannot install a==1 and b==2 because these package versions have conflicting dependencies.";
        says(conflict, None, Code::Config, &["contradict each other: Cannot install a==1 and b==2"]);
        says("", None, Code::Config, &["exit status: 1"]);
    }
}
