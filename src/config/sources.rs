//! Where values come from: the flags, variables and files, read as texts.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};

use super::given::{Given, Key, Origin, PREFIX};
use super::table::{Setting, settings};
use crate::exit::one_line;

const FROM_FILE: &str = "_FILE";

/// What [`load`](super::load) may look at besides the arguments.
pub struct Source {
    pub variables: Vec<(OsString, OsString)>,
    /// The administrator's file.
    pub etc: PathBuf,
    /// Folders that hold the sites when none is given: the first that exists, else the last.
    pub sites: Vec<PathBuf>,
    /// Where relative paths start.
    pub directory: PathBuf,
}

impl Source {
    /// This process's own environment.
    pub fn from_process() -> Self {
        Source {
            variables: env::vars_os().collect(),
            etc: "/etc/atrio/atrio.toml".into(),
            sites: vec!["/sites".into(), "sites".into()],
            directory: env::current_dir().unwrap_or_else(|_| "/".into()),
        }
    }

    /// `path` made absolute.
    pub(super) fn absolute(&self, path: &Path) -> PathBuf {
        self.directory.join(path).components().collect()
    }

    fn variables(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str())))
    }
}

/// What is written in the table, and the first folder of sites that exists.
pub(super) fn defaults(source: &Source) -> Vec<Given> {
    let sites = source.sites.iter().find(|folder| source.absolute(folder).is_dir()).or(source.sites.last());
    let text = |setting: &Setting| match (setting.key, sites) {
        ("sites", Some(folder)) => source.absolute(folder).display().to_string(),
        _ => setting.default.to_owned(),
    };
    let given = |setting| Given { key: Key::Setting(setting), text: text(setting), origin: Origin::Default };
    settings().filter(|setting| !setting.is_named()).map(given).collect()
}

/// The variables that platforms set by convention. An empty one counts as not set.
pub(super) fn conventional(source: &Source) -> Vec<Given> {
    let given = |(name, value): (&str, Option<&str>)| {
        let setting = settings().find(|setting| setting.conventional == Some(name))?;
        let text = value.filter(|text| !text.is_empty())?.to_owned();
        Some(Given { key: Key::Setting(setting), text, origin: Origin::Named(name.to_owned()) })
    };
    source.variables().filter_map(given).collect()
}

/// The `ATRIO_*` variables, and the files that `ATRIO_*_FILE` name.
pub(super) fn variables(source: &Source, problems: &mut Vec<String>) -> Vec<Given> {
    let mut found: Vec<Given> = Vec::new();
    for (variable, value) in source.variables() {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let given = match value {
            Some(value) => variable_given(variable, name, value),
            None => Err(format!("{variable}: not UTF-8; give it as UTF-8")),
        };
        match given {
            Ok(given) => found.extend(given),
            Err(problem) => problems.push(problem),
        }
    }
    for (index, given) in found.iter().enumerate() {
        let variable = given.key.variable();
        if found[..index].iter().any(|other| other.key.variable() == variable) {
            problems.push(format!("{variable} and {variable}{FROM_FILE}: both set; unset one"));
        }
    }
    found
}

/// What a variable gives, if it is one of Atrio's. `ATRIO_ENV_X_FILE` is the file of `X`, not a name `X_FILE`.
fn variable_given(variable: &str, name: &str, value: &str) -> Result<Option<Given>, String> {
    if let Some(key) = name.strip_suffix(FROM_FILE).and_then(Key::of_variable) {
        let content = fs::read_to_string(value)
            .map_err(|error| format!("{variable}={value}: {error}; name a file that can be read"))?;
        let text = content.strip_suffix('\n').unwrap_or(&content);
        let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
        let origin = Origin::Secret { variable: variable.to_owned(), file: value.into() };
        return Ok(Some(Given { key, text, origin }));
    }
    match Key::of_variable(name) {
        Some(key) => Ok(Some(Given { key, text: value.to_owned(), origin: Origin::Named(variable.to_owned()) })),
        None if name == HARNESS || is_service_link(name, value) => Ok(None),
        None => {
            let known = nearest(&name.to_lowercase()).variable();
            Err(format!("{variable}: no such setting; did you mean {known}?"))
        }
    }
}

/// `ATRIO_CMD` tells a test or benchmark harness how to start the server, which inherits it.
const HARNESS: &str = "CMD";

/// Kubernetes and Docker announce a service called `atrio` by variables that begin with its name.
fn is_service_link(name: &str, value: &str) -> bool {
    let name = format!("_{name}");
    let numbered = name.split("_PORT_").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let announced = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    announced || numbered || name.ends_with("_PORT") && value.contains("://")
}

/// What `path` says, if it exists.
pub(super) fn file(path: &Path, problems: &mut Vec<String>) -> Vec<Given> {
    let shown = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return vec![],
        // Whether it is there cannot be known; what cannot be read of the site is said elsewhere.
        Err(_) if fs::symlink_metadata(path).is_err() => return vec![],
        Err(error) => {
            problems.push(format!("{shown}: {error}; make it readable or remove it"));
            return vec![];
        }
    };
    let entries: Dict = match Toml::from_str(&text) {
        Ok(entries) => entries,
        Err(error) => {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            problems.push(format!("{shown}: line {line} is not TOML: {}; correct it", one_line(error.message())));
            return vec![];
        }
    };
    let mut found = Vec::new();
    for (name, value) in entries {
        let Some(setting) = settings().find(|setting| setting.key == name) else {
            let known = nearest(&name).key;
            problems.push(format!("{shown}: {name}: no such setting; did you mean {known}?"));
            continue;
        };
        for (key, value) in keys(setting, value) {
            let origin = Origin::File(path.to_owned());
            match text_of(&key, &value) {
                Some(text) => found.push(Given { key, text, origin }),
                None if setting.is_named() && matches!(key, Key::Setting(_)) => {
                    problems.push(format!("{shown}: {key}: not a table; write [{key}], and below it NAME = \"value\""));
                }
                None => problems.push(format!("{shown}: {key}: not a text; put it in quotes")),
            }
        }
    }
    found
}

/// `value` of `setting`, taken apart where it is a family.
pub(super) fn keys(setting: &'static Setting, value: Value) -> Vec<(Key, Value)> {
    match value {
        Value::Dict(_, named) if setting.is_named() => {
            named.into_iter().map(|(name, value)| (Key::Named(setting, name), value)).collect()
        }
        value => vec![(Key::Setting(setting), value)],
    }
}

/// What would stand in a variable for `value`. A float has no such text: `3.10` was lost when TOML was read.
fn text_of(key: &Key, value: &Value) -> Option<String> {
    match (key, value) {
        (Key::Setting(setting), _) if setting.is_named() => None,
        (Key::Setting(_), Value::Bool(_, on)) => Some(if *on { "on" } else { "off" }.into()),
        (_, Value::Bool(_, on)) => Some(on.to_string()),
        (_, Value::String(_, text)) => Some(text.clone()),
        (_, Value::Num(_, number)) => Some(number.to_i128()?.to_string()),
        (_, Value::Array(_, items)) => {
            let items: Option<Vec<String>> = items.iter().map(|item| text_of(key, item)).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

/// The flags among `args`; of one that is repeated the last counts.
pub(super) fn flags(args: &[OsString], problems: &mut Vec<String>) -> Vec<Given> {
    let mut found = Vec::new();
    let Some(words) = args.iter().map(|word| word.to_str()).collect::<Option<Vec<_>>>() else {
        problems.push("an argument is not UTF-8; give it as UTF-8".into());
        return found;
    };
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if !word.starts_with("--") {
            problems.push(format!("{word}: not expected here; see atrio --help"));
            continue;
        }
        let (flag, attached) = word.split_once('=').map_or((word, None), |(flag, value)| (flag, Some(value)));
        let value = attached.or_else(|| words.next_if(|next| !next.starts_with("--")));
        let Some(setting) = settings().find(|setting| setting.flag() == flag) else {
            let known = nearest(&flag[2..].replace('-', "_")).flag();
            problems.push(format!("{flag}: no such flag; did you mean {known}?"));
            continue;
        };
        match value.and_then(|value| flag_given(setting, value)) {
            Some((key, text)) => found.push(Given { key, text, origin: Origin::Named(flag.to_owned()) }),
            None => problems.push(format!("{flag}: no value; give {flag} {}", setting.placeholder())),
        }
    }
    found
}

fn flag_given(setting: &'static Setting, value: &str) -> Option<(Key, String)> {
    if !setting.is_named() {
        return Some((Key::Setting(setting), value.to_owned()));
    }
    let (name, text) = value.split_once('=').filter(|(name, _)| !name.is_empty())?;
    Some((Key::Named(setting, name.to_owned()), text.to_owned()))
}

fn nearest(name: &str) -> &'static Setting {
    let likeness = |setting: &&Setting| strsim::jaro_winkler(setting.key, name);
    settings().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).expect("there are settings")
}
