//! The files that are made from the table. `UPDATE_REFERENCE=1 cargo test reference` writes them anew.

use std::path::Path;
use std::{env, fs};

use super::table::{GROUPS, settings};

/// Between these lines of the README stands the table.
const MARKS: [&str; 2] = ["<!-- settings -->\n", "<!-- /settings -->\n"];

/// The content of `config/atrio.env`.
fn env_file() -> String {
    let mut out = "# The settings of Atrio and their defaults. Made from src/config/table.rs.\n".to_owned();
    for group in GROUPS {
        out += &format!("\n## {}\n", group.title);
        for setting in group.settings {
            out += &format!("\n# {}\n#{}={}\n", setting.meaning, setting.variable(), setting.default);
        }
    }
    out
}

/// The table of the settings in the README.
fn markdown() -> String {
    let mut out = "| variable | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for setting in settings() {
        let default = if setting.default.is_empty() { "none".into() } else { format!("`{}`", setting.default) };
        let conventional = setting.conventional.map(|name| format!(", else `{name}`")).unwrap_or_default();
        out += &format!("| `{}`{conventional} | {default} | {} |\n", setting.variable(), setting.meaning);
    }
    out
}

fn keep_current(file: &str, wanted: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let content = fs::read_to_string(&path).unwrap_or_default();
    let wanted = wanted(&content);
    if env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&path, &wanted).unwrap();
    } else {
        assert!(content == wanted, "{file} is stale; run UPDATE_REFERENCE=1 cargo test reference");
    }
}

#[test]
fn the_env_file_is_current() {
    keep_current("config/atrio.env", |_| env_file());
}

#[test]
fn the_readme_is_current() {
    keep_current("README.md", |readme| {
        let parts = readme.split_once(MARKS[0]).and_then(|(before, rest)| Some((before, rest.split_once(MARKS[1])?.1)));
        let (before, after) = parts.unwrap_or_else(|| panic!("README.md needs the lines {MARKS:?}"));
        [before, MARKS[0], &markdown(), MARKS[1], after].concat()
    });
}
