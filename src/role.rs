//! Which of its roles this process plays: from the name it was called by and its first arguments.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::exit::{Code, Failure};
use crate::python::interpreter::{self, Start};
use crate::supervisor::ZYGOTE;

/// Variable by which a site's virtual environment reaches the programs that the site starts.
const VENV: &str = "ATRIO_VENV";

#[derive(Debug, PartialEq)]
pub enum Role {
    Serve(Vec<OsString>),
    Zygote,
    /// The arguments of `python3`.
    Python(Vec<OsString>),
    Config(Vec<OsString>),
    Healthcheck(Vec<OsString>),
    Top(Vec<OsString>),
    Help,
    Version,
}

/// The role for a program name and the arguments behind it.
pub fn choose(name: &OsStr, args: Vec<OsString>) -> Result<Role, Failure> {
    let called = Path::new(name).file_name().unwrap_or_default().as_bytes();
    if called.starts_with(b"python") {
        return Ok(Role::Python(args));
    }
    if called.starts_with(b"pip") {
        return Ok(pip(args));
    }
    let Some(first) = args.first() else { return Ok(Role::Serve(args)) };
    let rest = || args[1..].to_vec();
    Ok(match first.as_bytes() {
        b"serve" => Role::Serve(rest()),
        b"config" => Role::Config(rest()),
        b"healthcheck" => Role::Healthcheck(rest()),
        b"top" => Role::Top(rest()),
        b"python" => Role::Python(rest()),
        b"pip" => pip(rest()),
        word if word == ZYGOTE.as_bytes() => Role::Zygote,
        b"help" | b"--help" | b"-h" => Role::Help,
        b"--version" | b"-V" => Role::Version,
        [b'-', b'-', _, ..] => Role::Serve(args),
        // `sys.executable` is this binary, and programs run it as `sys.executable -c …`, `-m …`, `SCRIPT`.
        [b'-', ..] => Role::Python(args),
        _ if Path::new(first).exists() => Role::Python(args),
        _ => {
            let shown = first.to_string_lossy();
            let known = ["serve", "config", "healthcheck", "top", "python", "pip", "help"];
            let near = known.iter().max_by(|a, b| strsim::jaro(a, &shown).total_cmp(&strsim::jaro(b, &shown)));
            let near = near.map_or(String::new(), |near| format!("; did you mean `atrio {near}`?"));
            return Err(Failure::new(Code::Usage, format!("`{shown}` is not a command{near} See: atrio --help")));
        }
    })
}

fn pip(args: Vec<OsString>) -> Role {
    Role::Python(["-m".into(), "pip".into()].into_iter().chain(args).collect())
}

/// How Python starts in the role of `python3`: where it takes itself to be decides which packages it finds.
pub fn python(name: OsString, args: Vec<OsString>) -> Start {
    let is_venv = |folder: &Path| folder.join("pyvenv.cfg").is_file();
    let called = called_path(&name).filter(|path| path.parent().and_then(Path::parent).is_some_and(is_venv));
    let site = std::env::var_os(VENV).map(PathBuf::from).filter(|venv| is_venv(venv));
    let program = called.or(site.map(|venv| venv.join("bin/python3"))).unwrap_or_else(interpreter::binary);
    let args = std::iter::once(program.clone().into_os_string()).chain(args).collect();
    Start { program, args }
}

/// The path behind the name that this process was called by; links are not followed, for a virtual environment's `bin/python` is one.
fn called_path(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return std::path::absolute(name).ok();
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(line: &str) -> Result<Role, Code> {
        let mut words = line.split(' ').map(OsString::from);
        choose(&words.next().unwrap(), words.collect()).map_err(|failure| failure.code)
    }

    #[test]
    fn roles_follow_name_and_arguments() {
        let python = |line: &str| Ok(Role::Python(line.split(' ').map(OsString::from).collect()));
        assert_eq!(role("atrio"), Ok(Role::Serve(vec![])));
        assert_eq!(role("atrio --threads 4"), Ok(Role::Serve(vec!["--threads".into(), "4".into()])));
        assert_eq!(role("/usr/bin/python3.13 -c pass"), python("-c pass"));
        assert_eq!(role("atrio python -m venv"), python("-m venv"));
        assert_eq!(role("atrio pip list"), python("-m pip list"));
        assert_eq!(role("/usr/bin/pip3 list"), python("-m pip list"));
        assert_eq!(role("atrio -c pass"), python("-c pass"));
        assert_eq!(role("atrio /proc/self/exe"), python("/proc/self/exe"));
        assert_eq!(role("atrio serv"), Err(Code::Usage));
    }
}
