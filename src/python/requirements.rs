//! Installs what a site's file of requirements asks for, once for each content of the file, before the site is imported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::config::{Requirements, Settings};
use crate::control::{Channel, FromZygote, Site};
use crate::exit::{Code, Failure, one_line};
use crate::os;
use crate::python::cache::{self, Set, Store};
use crate::python::pip;
use crate::python::site::PYTHON_MINOR;

/// The file that `auto` looks for.
const USUAL: &str = "requirements.txt";
/// A folder of wheels beside the file: then nothing else is asked.
const WHEELS: &str = "wheels";
/// How often the supervisor hears that the installation goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The installed packages of a site, and where they are kept.
pub struct Installed {
    set: Set,
    stores: Vec<Store>,
}

impl Installed {
    /// The folder to import from.
    pub fn folder(&self) -> &Path {
        &self.set.folder
    }

    /// Forgets what older files of requirements asked for.
    pub fn forget_older(&self) {
        let store = self.stores.iter().find(|store| Some(store.folder()) == self.set.folder.parent());
        if let Some(Err(error)) = store.map(Store::prune) {
            tracing::debug!("old packages cannot be removed: {error}");
        }
    }
}

/// The packages that the site's requirements ask for, installed if need be; `None` where there are no requirements.
pub fn provide(settings: &Settings, site: &Site, supervisor: &Channel) -> Result<Option<Installed>, Failure> {
    let Some(file) = file(settings, site)? else { return Ok(None) };
    let shown = file.display();
    let key = key(&file).map_err(|error| Failure::config(format!("{shown}: {error}; make it readable")))?;
    let stores = cache::stores(settings.cache.as_deref(), site);
    if let Some(set) = cache::find(&stores, &key) {
        tracing::info!(site = site.name, "the packages of {shown} are in {}", set.folder.display());
        return Ok(Some(Installed { set, stores }));
    }
    let store = cache::writable(&stores)?;
    let set = install(&file, site, store, &key, &mut Watch::new(supervisor))?;
    Ok(Some(Installed { set, stores }))
}

/// The file to install from. `auto` leaves a site alone that brings its packages.
fn file(settings: &Settings, site: &Site) -> Result<Option<PathBuf>, Failure> {
    match &settings.requirements {
        Requirements::Off => Ok(None),
        Requirements::File(file) => {
            let file = site.folder.join(file);
            if file.is_file() {
                return Ok(Some(file));
            }
            Err(Failure::config(format!(
                "ATRIO_REQUIREMENTS: there is no file {}; name one, relative to the site's folder, or `off`",
                file.display()
            )))
        }
        Requirements::Auto => {
            let file = site.folder.join(USUAL);
            if !file.is_file() {
                return Ok(None);
            }
            let venv = settings.venv.is_some().then_some("ATRIO_VENV");
            let beside = [".venv", "site-packages"].into_iter().find(|name| site.folder.join(name).is_dir());
            let Some(other) = venv.or(beside) else { return Ok(Some(file)) };
            tracing::info!(
                site = site.name,
                "{} is not installed, for the site has {other}; ATRIO_REQUIREMENTS={USUAL} installs it all the same",
                file.display()
            );
            Ok(None)
        }
    }
}

/// The ABI that installed packages are made for.
fn abi() -> String {
    format!("python{PYTHON_MINOR}-{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

/// Names the set of packages: by what the file and those that it includes say, and the ABI.
fn key(file: &Path) -> std::io::Result<String> {
    let mut files = BTreeMap::from([(file.to_owned(), std::fs::read(file)?)]);
    let mut new = vec![file.to_owned()];
    while let Some(including) = new.pop() {
        let text = String::from_utf8_lossy(&files[&including]).into_owned();
        for name in included(&text) {
            let path = including.with_file_name(name);
            // Of one that cannot be read pip tells more.
            if !files.contains_key(&path)
                && let Ok(content) = std::fs::read(&path)
            {
                files.insert(path.clone(), content);
                new.push(path);
            }
        }
    }
    // The set stays the same when the site moves.
    let folder = file.parent().unwrap_or(file);
    let mut all = abi().into_bytes();
    for (path, content) in files {
        let name = path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_encoded_bytes();
        all.extend([name, b"\0", content.len().to_string().as_bytes(), b"\0", &content].concat());
    }
    Ok(cache::digest(&all, 12))
}

/// The files that the lines of a file of requirements include: `-r base.txt`, `--constraint=pins.txt`.
fn included(text: &str) -> Vec<&str> {
    let options = ["-r", "-c", "--requirement", "--constraint"];
    text.lines()
        .filter_map(|line| {
            let line = line.split(" #").next().unwrap_or_default().trim();
            let rest = options.iter().find_map(|option| {
                let rest = line.strip_prefix(option)?;
                (!option.starts_with("--") || rest.starts_with(['=', ' ', '\t'])).then_some(rest)
            })?;
            let name = rest.trim_start_matches(['=', ' ', '\t']);
            (!name.is_empty()).then_some(name)
        })
        .collect()
}

fn install(file: &Path, site: &Site, store: &Store, key: &str, watch: &mut Watch) -> Result<Set, Failure> {
    let began = Instant::now();
    let refused = |error: std::io::Error| cannot_write(store, &error);
    let mut told = false;
    let change = store
        .change(|pause| {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(site = site.name, "another process installs into {}: waiting", store.folder().display());
            }
            watch.pass(None, pause).map(drop)
        })
        .map_err(refused)?;
    if let Some(set) = change.find(key) {
        return Ok(set);
    }
    let wheels = Some(file.with_file_name(WHEELS)).filter(|folder| folder.is_dir());
    let source = wheels.as_ref().map_or(String::new(), |wheels| format!(", from {} alone", wheels.display()));
    tracing::info!(site = site.name, "installing {} into {}{source}", file.display(), store.folder().display());
    let partial = change.begin(key).map_err(refused)?;
    let job = pip::Job {
        requirements: file,
        wheels: wheels.as_deref(),
        folder: &site.folder,
        target: &partial.packages(),
        scratch: &partial.scratch(),
    };
    pip::install(&job, |output, patience| watch.pass(Some(output), patience))?;
    let set = change.finish(&partial, key).map_err(refused)?;
    let seconds = began.elapsed().as_secs_f64();
    tracing::info!(site = site.name, "the packages of {} are installed, in {seconds:.1} s", file.display());
    Ok(set)
}

fn cannot_write(store: &Store, error: &std::io::Error) -> Failure {
    let shown = store.folder().display();
    if cache::is_full(error) {
        return Failure::new(
            Code::Io,
            format!("{shown}: {error}; make room there, or name another folder with ATRIO_CACHE"),
        );
    }
    let error = one_line(&error.to_string());
    Failure::new(Code::CannotCreate, format!("{shown}: {error}; name a folder that can be written with ATRIO_CACHE"))
}

/// Tells the supervisor that the installation goes on, and ends it with the supervisor.
struct Watch<'a> {
    supervisor: &'a Channel,
    told: Option<Instant>,
}

impl<'a> Watch<'a> {
    fn new(supervisor: &'a Channel) -> Self {
        Watch { supervisor, told: None }
    }

    /// Waits for output of pip, or only for time to pass; tells whether there is some.
    fn pass(&mut self, output: Option<std::os::fd::BorrowedFd>, patience: Duration) -> std::io::Result<bool> {
        if self.told.is_none_or(|told| told.elapsed() >= SIGN_OF_LIFE) {
            self.told = Some(Instant::now());
            self.supervisor.send(&FromZygote::Installing)?;
        }
        match self.supervisor.wait_beside(output, patience.min(SIGN_OF_LIFE)) {
            // Pip and what it has started would go on for nobody.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => os::end_group(),
            waited => waited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_found() {
        let text = "six  # -r no\n-r a.txt\n  --requirement b/b.txt # why\n-cc.txt\n--constraint=d.txt\n--require-hashes\n#-r x";
        assert_eq!(included(text), ["a.txt", "b/b.txt", "c.txt", "d.txt"]);
    }

    #[test]
    fn the_key_follows_every_file_and_nothing_else() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |folder: &tempfile::TempDir, name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let key = |folder: &tempfile::TempDir| key(&folder.path().join(USUAL)).unwrap();
        for folder in [&one, &two] {
            write(folder, USUAL, "six\n-r base/a.txt\n-c absent.txt\n");
            // They include one another.
            write(folder, "base/a.txt", "-r b.txt\n");
            write(folder, "base/b.txt", "-r a.txt\n");
        }
        assert_eq!(key(&one), key(&two));
        assert_eq!(key(&one).len(), 24);
        let before = key(&one);
        write(&one, "base/b.txt", "-r a.txt\nmore\n");
        assert_ne!(key(&one), before);
        write(&one, "base/b.txt", "-r a.txt\n");
        assert_eq!(key(&one), before);
        write(&one, "absent.txt", "six<2\n");
        assert_ne!(key(&one), before);
    }
}
