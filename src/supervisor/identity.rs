//! Whom zygotes and workers run as: `ATRIO_USER` and `ATRIO_GROUP`, as WSGIDaemonProcess' user= and group=.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Group, Uid, User, chown, getegid, geteuid, getgrouplist};

use crate::config::{Requirements, Settings};
use crate::control::Site;
use crate::exit::{Code, Failure};
use crate::os;

/// Where packages are installed when nothing else is said.
const CACHE: &str = "/var/cache/atrio";

/// A user and groups other than this process's.
#[derive(Clone, Debug)]
pub struct Identity {
    user: Uid,
    group: Gid,
    groups: Vec<Gid>,
    /// Name and home; not known of a mere group, or of a number that has no entry in `/etc/passwd`.
    entry: Option<(String, PathBuf)>,
}

/// Whom the settings name; `None` when this process is that already.
///
/// # Errors
/// `NoUser` when there is no such user or group, `Permission` when this process may not change to it.
pub fn resolve(settings: &Settings) -> Result<Option<Identity>, Failure> {
    let (user, group) = (settings.user.as_deref(), settings.group.as_deref());
    let Some(asked) = user.map(|u| format!("ATRIO_USER={u}")).or(group.map(|g| format!("ATRIO_GROUP={g}"))) else {
        return Ok(None);
    };
    let entry = user.map(find_user).transpose()?;
    let group = group.map(find_group).transpose()?;
    let (uid, known) = entry.map_or((geteuid(), None), |(uid, known)| (uid, known));
    let Some(gid) = group.or(known.as_ref().map(|known| known.gid)) else {
        return Err(Failure::new(
            Code::NoUser,
            format!("{asked}: this user has no entry in /etc/passwd to tell its group; set ATRIO_GROUP too"),
        ));
    };
    if (uid, gid) == (geteuid(), getegid()) {
        return Ok(None);
    }
    let groups = known.as_ref().and_then(|known| {
        let name = CString::new(known.name.as_str()).ok()?;
        getgrouplist(&name, gid).ok()
    });
    let entry = known.map(|known| (known.name, known.dir));
    let identity = Identity { user: uid, group: gid, groups: groups.unwrap_or(vec![gid]), entry };
    identity.try_out().map_err(|error| {
        let remedy = "start Atrio as root, or as that user with neither ATRIO_USER nor ATRIO_GROUP";
        Failure::new(Code::Permission, format!("{asked}: the user cannot be changed: {error}; {remedy}"))
    })?;
    Ok(Some(identity))
}

fn find_user(name: &str) -> Result<(Uid, Option<User>), Failure> {
    let found = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)).map(|user| Some((Uid::from_raw(number), user))),
        Err(_) => User::from_name(name).map(|user| user.map(|user| (user.uid, Some(user)))),
    };
    found.ok().flatten().ok_or_else(|| {
        Failure::new(
            Code::NoUser,
            format!("ATRIO_USER={name}: there is no such user here; give a name of /etc/passwd, or a number"),
        )
    })
}

fn find_group(name: &str) -> Result<Gid, Failure> {
    let found = match name.parse() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
    };
    found.ok_or_else(|| {
        Failure::new(
            Code::NoUser,
            format!("ATRIO_GROUP={name}: there is no such group here; give a name of /etc/group, or a number"),
        )
    })
}

impl Identity {
    /// The program will run as this user, and take itself to be at home there.
    pub fn apply(&self, command: &mut Command) {
        os::run_as(command, self.user, self.group, self.groups.clone());
        let (name, home) = self.entry.clone().unwrap_or_else(|| (self.user.to_string(), "/".into()));
        if geteuid() != self.user {
            command.env("HOME", home).env("USER", &name).env("LOGNAME", name);
        }
    }

    /// Privileges, capabilities and user namespaces decide together: whether it works is seen when it is done.
    fn try_out(&self) -> io::Result<()> {
        let mut trial = Command::new("/proc/self/exe");
        trial.arg0("atrio").arg("--version").stdin(Stdio::null()).stdout(Stdio::null());
        self.apply(&mut trial);
        let status = trial.status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("atrio --version ended with {status}"))) }
    }

    /// Gives the user the folder for installed packages, where it is new: a fresh volume belongs to root.
    pub fn own_cache(&self, settings: &Settings, site: &Site) {
        let wanted = match &settings.requirements {
            Requirements::Off => false,
            Requirements::File(_) => true,
            Requirements::Auto => site.folder.join("requirements.txt").is_file(),
        };
        if !wanted || settings.cache.is_none() && std::env::var_os("CACHE_DIRECTORY").is_some() {
            return;
        }
        let folder = settings.cache.as_deref().unwrap_or(Path::new(CACHE));
        // What cannot be made or given away is told by whoever wants to write there.
        let _ = std::fs::create_dir_all(folder);
        let is_ours = std::fs::symlink_metadata(folder).is_ok_and(|f| f.is_dir() && f.uid() == geteuid().as_raw());
        if is_ours && std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()) {
            let _ = chown(folder, Some(self.user), Some(self.group));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let (root, entry) = find_user("root").unwrap();
        assert!(root.is_root() && entry.is_some_and(|user| user.name == "root"));
        assert!(find_user("0").unwrap().1.is_some());
        assert!(find_user("3999999999").unwrap().1.is_none());
        assert_eq!(find_user("no such user").unwrap_err().code, Code::NoUser);
        assert_eq!(find_group("root").unwrap(), find_group("0").unwrap());
        assert_eq!(find_group("no such group").unwrap_err().code, Code::NoUser);
    }
}
