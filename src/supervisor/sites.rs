//! Finds the site to serve below `ATRIO_SITES`.

use std::path::Path;

use crate::config::Settings;
use crate::control::Site;
use crate::exit::{Code, Failure};

/// The one site: `$ATRIO_SITES/root.py`, else the only `$ATRIO_SITES/*/root.py`, else the one that `ATRIO_SITE` names.
pub fn find(settings: &Settings) -> Result<Site, Failure> {
    let folder = &settings.sites;
    let shown = folder.display();
    let script = &settings.script;
    if settings.site.is_none() && is_script(&folder.join(script))? {
        return Ok(site(folder));
    }
    let entries = std::fs::read_dir(folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::config(format!(
            "ATRIO_SITES: {shown} does not exist; mount your site there (docker run -v ./sites:/sites …) or set ATRIO_SITES"
        )),
        std::io::ErrorKind::NotADirectory => Failure::config(format!("ATRIO_SITES: {shown} is not a folder; name the folder that root.py is in")),
        _ => Failure::new(Code::Permission, format!("ATRIO_SITES: {shown} cannot be read: {error}; let this user read it")),
    })?;
    let (mut found, mut unreadable) = (Vec::new(), None);
    for entry in entries.flatten() {
        match is_script(&entry.path().join(script)) {
            Ok(true) => found.push(site(&entry.path())),
            Ok(false) => {}
            Err(failure) => unreadable = Some(failure),
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let names = || found.iter().map(|site| &*site.name).collect::<Vec<_>>().join(", ");
    if let Some(failure) = unreadable.filter(|_| found.is_empty()) {
        return Err(failure);
    }
    match (&settings.site, found.len()) {
        (Some(name), _) => found.iter().find(|site| site.name == *name).cloned().ok_or_else(|| {
            let there = if found.is_empty() { "there is none".into() } else { format!("there are: {}", names()) };
            Failure::config(format!("ATRIO_SITE={name}: no folder of that name with a {script} in {shown}; {there}"))
        }),
        (None, 1) => Ok(found.swap_remove(0)),
        (None, 0) => Err(Failure::config(format!(
            "no {script} in {shown} or in a folder of it; put one there that declares application(environ, start_response), or set ATRIO_SITES"
        ))),
        (None, _) => {
            Err(Failure::config(format!("{shown} has several sites: {}; choose one with ATRIO_SITE=NAME", names())))
        }
    }
}

fn is_script(path: &Path) -> Result<bool, Failure> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(path.is_file()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            // A script that cannot even be seen is behind a folder that cannot be entered.
            let folder = path.parent().filter(|_| std::fs::symlink_metadata(path).is_err());
            let what = folder.map_or_else(|| path.display().to_string(), |f| format!("ATRIO_SITES: {}", f.display()));
            Err(Failure::new(Code::Permission, format!("{what} cannot be read: {error}; let this user read it")))
        }
        Err(_) => Ok(false),
    }
}

fn site(folder: &Path) -> Site {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = folder.file_name().map_or_else(|| "site".into(), |name| name.to_string_lossy().into_owned());
    Site { name, folder }
}
