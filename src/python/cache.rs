//! Where installed packages are kept: one folder for each site, in it one for each set of packages, under its key.
//!
//! A set is complete from the moment when it has its name, for it is made beside and then renamed. Whoever uses one holds a shared
//! lock on its folder, and whoever makes or removes one an exclusive lock on the site's `lock` file.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, access};
use sha2::{Digest, Sha256};

use crate::control::Site;
use crate::exit::{Code, Failure};

/// The sets of a site that stay: the one in use, and the one before it for the way back.
const KEPT: usize = 2;
/// What a folder is called while packages are installed into it, or removed from it.
const PARTIAL: &str = "partial";
/// How often a lock that another process has is asked for.
const PAUSE: Duration = Duration::from_millis(100);

/// An installed set of packages; it stays for as long as this lives in any process.
#[derive(Debug)]
pub struct Set {
    pub folder: PathBuf,
    _in_use: Flock<File>,
}

/// The sets of one site.
pub struct Store {
    folder: PathBuf,
    /// A folder above it that anybody could have made, and which counts only if nobody else can write to it.
    guarded: Option<PathBuf>,
}

/// The right to change a store.
pub struct Change<'a> {
    store: &'a Store,
    _alone: Flock<File>,
}

/// A folder that packages are installed into.
pub struct Partial {
    folder: PathBuf,
}

/// Letters and digits that stand for `content`, always the same.
pub fn digest(content: &[u8], bytes: usize) -> String {
    Sha256::digest(content).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The stores that a site may have its packages in: in the folder that `ATRIO_CACHE` names, or else in any of the usual ones.
pub fn stores(setting: Option<&Path>, site: &Site) -> Vec<Store> {
    let name: String =
        site.name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect();
    let name = format!("{name}-{}", digest(site.folder.as_os_str().as_encoded_bytes(), 4));
    let store = |folder: &Path| Store { folder: folder.join("packages").join(&name), guarded: None };
    if let Some(folder) = setting {
        return vec![store(folder)];
    }
    let own = std::env::temp_dir().join(format!("atrio-{}", nix::unistd::geteuid()));
    let own = Store { guarded: Some(own.clone()), ..store(&own) };
    usual().iter().map(|folder| store(folder)).chain([own]).collect()
}

/// The folders for what is cached on this machine.
fn usual() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    // Of systemd's CacheDirectory= the first counts.
    let given = variable("CACHE_DIRECTORY").and_then(|folders| std::env::split_paths(&folders).next());
    let home =
        variable("XDG_CACHE_HOME").map(PathBuf::from).or(variable("HOME").map(|h| PathBuf::from(h).join(".cache")));
    let home = home.filter(|folder| folder.is_absolute()).map(|folder| folder.join("atrio"));
    given.into_iter().chain([PathBuf::from("/var/cache/atrio")]).chain(home).collect()
}

/// Whether nobody else can write to this folder.
fn is_own(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|found| {
        found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0
    })
}

/// The set of that key, if one of the stores has it.
pub fn find(stores: &[Store], key: &str) -> Option<Set> {
    stores.iter().find_map(|store| store.find(key))
}

/// The first of the stores that can be written to.
pub fn writable(stores: &[Store]) -> Result<&Store, Failure> {
    let mut reasons = Vec::new();
    for store in stores {
        match store.make() {
            Ok(()) => return Ok(store),
            Err(error) => reasons.push((store, error)),
        }
    }
    let tried: Vec<_> = reasons.iter().map(|(store, error)| format!("{}: {error}", store.cache().display())).collect();
    let full = reasons.iter().any(|(_, error)| is_full(error));
    let code = if full { Code::Io } else { Code::CannotCreate };
    let remedy = "name a folder that can be written with ATRIO_CACHE (docker run -v cache:/var/cache/atrio …)";
    Err(Failure::new(code, format!("there is no folder to install packages into ({}); {remedy}", tried.join(", "))))
}

pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl Store {
    /// What `ATRIO_CACHE` names.
    fn cache(&self) -> &Path {
        self.folder.ancestors().nth(2).unwrap_or(&self.folder)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn make(&self) -> io::Result<()> {
        std::fs::DirBuilder::new().mode(0o755).recursive(true).create(&self.folder)?;
        if !self.is_safe() {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "others can write to it"));
        }
        Ok(access(&self.folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
    }

    fn is_safe(&self) -> bool {
        self.guarded.as_deref().is_none_or(is_own)
    }

    fn find(&self, key: &str) -> Option<Set> {
        if !self.is_safe() {
            return None;
        }
        let folder = self.folder.join(key);
        let opened = File::open(&folder).ok().filter(|file| file.metadata().is_ok_and(|found| found.is_dir()))?;
        // The order of use; on what cannot be written nothing is ever removed either.
        let _ = opened.set_modified(SystemTime::now());
        let inode = opened.metadata().ok()?.ino();
        let in_use = Flock::lock(opened, FlockArg::LockShared).ok()?;
        // It may have been removed before the lock was there.
        let still = std::fs::metadata(&folder).is_ok_and(|found| found.ino() == inode);
        still.then_some(Set { folder, _in_use: in_use })
    }

    /// Waits for the right to change the store; `pause` passes a time between two tries, or ends the wait.
    pub fn change(&self, mut pause: impl FnMut(Duration) -> io::Result<()>) -> io::Result<Change<'_>> {
        let mut file = self.lock_file()?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(alone) => return Ok(Change { store: self, _alone: alone }),
                Err((again, Errno::EAGAIN | Errno::EINTR)) => file = again,
                Err((_, error)) => return Err(error.into()),
            }
            pause(PAUSE)?;
        }
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().write(true).create(true).truncate(false).open(self.folder.join("lock"))
    }

    /// Removes the sets that were used longest ago, but for those that a process uses. Another process that changes the store
    /// will do it in its turn.
    pub fn prune(&self) -> io::Result<()> {
        match Flock::lock(self.lock_file()?, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => Change { store: self, _alone: alone }.prune(),
            Err(_) => Ok(()),
        }
    }
}

impl Change<'_> {
    pub fn find(&self, key: &str) -> Option<Set> {
        self.store.find(key)
    }

    /// An empty folder to install into.
    pub fn begin(&self, key: &str) -> io::Result<Partial> {
        let folder = self.store.folder.join(key).with_extension(PARTIAL);
        // What an installation has left that was killed.
        remove(&folder)?;
        let partial = Partial { folder };
        std::fs::create_dir(&partial.folder)?;
        for inner in [partial.packages(), partial.scratch()] {
            std::fs::create_dir(inner)?;
        }
        Ok(partial)
    }

    /// The packages are all there: gives the set its name.
    pub fn finish(&self, partial: &Partial, key: &str) -> io::Result<Set> {
        std::fs::rename(partial.packages(), self.store.folder.join(key))?;
        self.find(key).ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the installed packages are gone"))
    }

    fn prune(&self) -> io::Result<()> {
        let mut sets = Vec::new();
        for entry in std::fs::read_dir(&self.store.folder)? {
            let entry = entry?;
            let found = entry.metadata()?;
            if entry.path().extension() == Some(PARTIAL.as_ref()) {
                remove(&entry.path())?;
            } else if found.is_dir() {
                sets.push((found.modified()?, entry.path()));
            }
        }
        sets.sort();
        for (_, folder) in sets.iter().rev().skip(KEPT) {
            if let Ok(_unused) = Flock::lock(File::open(folder)?, FlockArg::LockExclusiveNonblock) {
                let doomed = folder.with_extension(PARTIAL);
                std::fs::rename(folder, &doomed)?;
                remove(&doomed)?;
            }
        }
        Ok(())
    }
}

impl Partial {
    pub fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    /// For pip's temporary files: on the same filesystem, so that packages are moved and not copied.
    pub fn scratch(&self) -> PathBuf {
        self.folder.join("tmp")
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next installation.
        let _ = remove(&self.folder);
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &tempfile::TempDir) -> Store {
        let site = Site { name: "a shop".into(), folder: "/sites/a shop".into() };
        let store = stores(Some(folder.path()), &site).swap_remove(0);
        store.make().unwrap();
        store
    }

    fn install(store: &Store, key: &str) -> Set {
        let change = store.change(|_| panic!("nobody else has the lock")).unwrap();
        let partial = change.begin(key).unwrap();
        std::fs::write(partial.packages().join("module.py"), "").unwrap();
        change.finish(&partial, key).unwrap()
    }

    fn names(store: &Store) -> Vec<String> {
        let entries = std::fs::read_dir(&store.folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).filter(|name| name != "lock").collect();
        names.sort();
        names
    }

    #[test]
    fn a_set_has_its_name_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let change = store.change(|_| unreachable!()).unwrap();
        let partial = change.begin("one").unwrap();
        assert!(store.find("one").is_none());
        let set = change.finish(&partial, "one").unwrap();
        drop(partial);
        assert_eq!(set.folder, store.folder.join("one"));
        assert_eq!(names(&store), ["one"]);
    }

    #[test]
    fn what_a_killed_installation_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let partial = store.change(|_| unreachable!()).unwrap().begin("one").unwrap();
        std::fs::write(partial.packages().join("half"), "").unwrap();
        std::mem::forget(partial);
        install(&store, "two");
        assert_eq!(names(&store), ["one.partial", "two"]);
        assert!(
            std::fs::read_dir(install(&store, "one").folder).unwrap().all(|e| e.unwrap().file_name() == "module.py")
        );
        assert_eq!(names(&store), ["one", "two"]);
    }

    #[test]
    fn the_last_two_sets_stay_and_those_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let used = install(&store, "a");
        for (key, age) in [("b", 30), ("c", 20), ("d", 10)] {
            drop(install(&store, key));
            let then = SystemTime::now() - Duration::from_secs(age);
            File::open(store.folder.join(key)).unwrap().set_modified(then).unwrap();
        }
        File::open(&used.folder).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        store.prune().unwrap();
        assert_eq!(names(&store), ["a", "c", "d"]);
        drop(used);
        store.prune().unwrap();
        assert_eq!(names(&store), ["c", "d"]);
    }

    #[test]
    fn one_process_changes_a_store_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let first = store.change(|_| unreachable!()).unwrap();
        assert!(store.change(|_| Err(ErrorKind::BrokenPipe.into())).is_err());
        let mut first = Some(first);
        let second = store.change(|_| {
            first = None;
            Ok(())
        });
        assert!(second.is_ok());
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_not_own() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        std::fs::create_dir(&own).unwrap();
        assert!(is_own(&own));
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_own(&own));
        std::os::unix::fs::symlink("own", folder.path().join("link")).unwrap();
        assert!(!is_own(&folder.path().join("link")));
    }
}
