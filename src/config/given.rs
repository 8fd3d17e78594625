//! A text that someone gave for a setting, and who it was.

use std::fmt;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::table::{Setting, settings};

/// What the variables of all settings begin with.
pub(super) const PREFIX: &str = "ATRIO_";

/// What a value is given for.
#[derive(Clone)]
pub enum Key {
    Setting(&'static Setting),
    /// One name of a family, such as `ATRIO_ENV_*`.
    Named(&'static Setting, String),
}

impl Key {
    pub fn setting(&self) -> &'static Setting {
        match self {
            Key::Setting(setting) | Key::Named(setting, _) => setting,
        }
    }

    /// As `ATRIO_THREADS` or `ATRIO_ENV_COLOUR`.
    pub fn variable(&self) -> String {
        match self {
            Key::Setting(setting) => setting.variable(),
            Key::Named(setting, name) => format!("{PREFIX}{}_{name}", setting.key.to_uppercase()),
        }
    }

    /// The key of `name`, which is a variable without its prefix.
    pub(super) fn of_variable(name: &str) -> Option<Self> {
        settings().find_map(|setting| {
            let key = setting.key.to_uppercase();
            if !setting.is_named() {
                return (key == name).then_some(Key::Setting(setting));
            }
            let name = name.strip_prefix(&key)?.strip_prefix('_')?;
            (!name.is_empty()).then(|| Key::Named(setting, name.to_owned()))
        })
    }
}

/// As in a TOML file: `threads` or `env.COLOUR`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Key::Setting(setting) => f.write_str(setting.key),
            Key::Named(setting, name) => write!(f, "{}.{name}", setting.key),
        }
    }
}

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A variable or a flag, by its name.
    Named(String),
    File(PathBuf),
    /// A variable that names the file with the value. The content is not for showing.
    Secret {
        variable: String,
        file: PathBuf,
    },
}

const DEFAULT: &str = "default";

impl From<&Origin> for Metadata {
    fn from(origin: &Origin) -> Self {
        match origin {
            Origin::Default => Metadata::named(DEFAULT),
            Origin::Named(name) => Metadata::named(name.clone()),
            Origin::File(path) => Metadata::from("", path.as_path()),
            Origin::Secret { variable, file } => Metadata::from(variable.clone(), file.as_path()),
        }
    }
}

impl From<&Metadata> for Origin {
    fn from(metadata: &Metadata) -> Self {
        match (&*metadata.name, metadata.source.as_ref().and_then(|source| source.file_path())) {
            (DEFAULT, None) => Origin::Default,
            (name, None) => Origin::Named(name.to_owned()),
            ("", Some(path)) => Origin::File(path.to_owned()),
            (variable, Some(file)) => Origin::Secret { variable: variable.to_owned(), file: file.to_owned() },
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Origin::Default => f.write_str(DEFAULT),
            Origin::Named(name) | Origin::Secret { variable: name, .. } => f.write_str(name),
            Origin::File(path) => path.display().fmt(f),
        }
    }
}

/// A text that someone gave for a key. A text it stays until it is parsed: nothing makes a float of `3.10`.
#[derive(Clone)]
pub struct Given {
    pub key: Key,
    pub text: String,
    pub origin: Origin,
}

impl Given {
    /// One line for the user: what was given and where, what is wrong with it, what to give instead.
    pub(super) fn problem(&self, wrong: &str) -> String {
        let Given { key, text, origin } = self;
        let setting = key.setting();
        let variable = key.variable();
        let (given, example) = match origin {
            Origin::Default => (format!("{variable}={text}"), format!("{variable}={}", setting.default)),
            Origin::Named(name) => (format!("{name}={text}"), format!("{name}={}", setting.default)),
            Origin::File(path) => {
                (format!("{}: {key} = {text:?}", path.display()), format!("{key} = {:?}", setting.default))
            }
            Origin::Secret { variable: name, file } => {
                (format!("{name}={}", file.display()), format!("{variable}={}", setting.default))
            }
        };
        let wrong = if self.secret().is_some() { "the file's content is not valid" } else { wrong };
        let remedy = setting.remedy();
        match setting.default {
            "" => format!("{given}: {wrong}; {remedy}"),
            _ => format!("{given}: {wrong}; {remedy}, e.g. {example}"),
        }
    }

    /// The file whose content must not be shown.
    pub(super) fn secret(&self) -> Option<&Path> {
        match &self.origin {
            Origin::Secret { file, .. } => Some(file),
            _ => None,
        }
    }
}

impl Provider for Given {
    fn metadata(&self) -> Metadata {
        (&self.origin).into()
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let text = Value::from(self.text.as_str());
        let value = match &self.key {
            Key::Setting(_) => text,
            Key::Named(_, name) => Dict::from([(name.clone(), text)]).into(),
        };
        let key = self.key.setting().key.to_owned();
        Ok(Profile::Default.collect(Dict::from([(key, value)])))
    }
}
