//! What is shown of the settings: help, and the values in the forms of `atrio config`.

use std::ffi::OsString;

use serde_json::{Map, Value as Json, json};

use super::given::{Given, Key};
use super::load::{Loaded, Problems};
use super::table::{GROUPS, Kind};
use crate::exit::one_line;

const WIDTH: usize = 100;
const INDENT: &str = "     ";
/// Where the variables stand in help.
const COLUMN: usize = 44;

const USAGE: &str = "\
Usage: atrio [COMMAND] [--SETTING VALUE]…

Commands:
  serve       serve the sites (the default)
  config      show every setting and where its value came from; --format text, env, toml or json
  healthcheck ask the running instance whether it is ready: exit code 0 or 1
  top         live view of the requests that run, workers and errors; --once: as text, once
  python …    the embedded interpreter, exactly as python3 …
  pip …       pip for the embedded interpreter
  --help      this text
  --version   the version

Each setting is taken from the first that gives it: its flag, its variable, /etc/atrio/atrio.toml,
atrio.toml in the folder of sites, its conventional variable, its default. ATRIO_X_FILE names a file
that holds the value of ATRIO_X. Times: 30s, 5m, 1h30m. Sizes: 64KiB, 10MB. Lists: commas.
";

/// The form in which [`render`] writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Env,
    Toml,
    Json,
}

impl Format {
    /// Takes `--format WORD` out of the arguments of `atrio config`.
    pub fn take(args: &mut Vec<OsString>) -> Result<Self, Problems> {
        let Some(at) =
            args.iter().position(|word| word == "--format" || word.as_encoded_bytes().starts_with(b"--format="))
        else {
            return Ok(Format::default());
        };
        let flag = args.remove(at).to_string_lossy().into_owned();
        let word = match flag.split_once('=') {
            Some((_, word)) => word.to_owned(),
            None if at < args.len() => args.remove(at).to_string_lossy().into_owned(),
            None => String::new(),
        };
        match word.as_str() {
            "text" => Ok(Format::Text),
            "env" => Ok(Format::Env),
            "toml" => Ok(Format::Toml),
            "json" => Ok(Format::Json),
            _ => Err(Problems(vec![format!("--format={word}: no such format; give text, env, toml or json")])),
        }
    }
}

/// The text of `atrio --help`.
pub fn help() -> String {
    let mut out = USAGE.to_owned();
    for group in GROUPS {
        out += &format!("\n{}:\n", group.title);
        for setting in group.settings {
            let flag = format!("  {} {}", setting.flag(), setting.placeholder());
            let conventional = setting.conventional.map(|name| format!(", else {name}")).unwrap_or_default();
            let default = if setting.default.is_empty() { "none" } else { setting.default };
            out += &format!("{flag:COLUMN$}{}{conventional}\n", setting.variable());
            out += &wrapped(&format!("{} (default: {default})", setting.meaning));
        }
    }
    out
}

fn wrapped(text: &str) -> String {
    let mut lines = vec![INDENT.to_owned()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("starts with one line");
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("{INDENT} {word}"));
        } else {
            *line += &format!(" {word}");
        }
    }
    lines.join("\n") + "\n"
}

/// The text of `atrio config`: every value and where it came from. Secrets are not shown.
pub fn render(loaded: &Loaded, format: Format) -> String {
    match format {
        Format::Text => text(&loaded.origins),
        Format::Env => loaded.origins.iter().map(env_lines).collect(),
        Format::Toml => toml(&loaded.origins),
        Format::Json => json(&loaded.origins),
    }
}

fn text(origins: &[Given]) -> String {
    let shown = |given: &Given| given.secret().map_or(given.text.clone(), |file| format!("(from {})", file.display()));
    let rows: Vec<[String; 3]> = origins
        .iter()
        .map(|given| [given.key.to_string(), shown(given), given.origin.to_string()].map(|cell| one_line(&cell)))
        .collect();
    let [key, value] = [0, 1].map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    rows.iter().map(|[a, b, c]| format!("{a:key$}  {b:value$}  {c}\n")).collect()
}

fn env_lines(given: &Given) -> String {
    let Given { key, text, origin } = given;
    match given.secret() {
        Some(file) => one_line(&format!("{origin}={}", file.display())) + "\n",
        None => format!("# {}\n{}={}\n", one_line(&origin.to_string()), key.variable(), one_line(text)),
    }
}

/// The named ones come last: a TOML table reaches to the end of the file.
fn toml(origins: &[Given]) -> String {
    let (mut plain, mut tables) = (String::new(), String::new());
    for given in origins {
        match &given.key {
            Key::Setting(setting) => plain += &toml_line(setting.key, given),
            Key::Named(setting, name) => {
                let heading = format!("\n[{}]\n", setting.key);
                if !tables.contains(&heading) {
                    tables += &heading;
                }
                tables += &toml_line(&json!(name).to_string(), given);
            }
        }
    }
    plain + &tables
}

fn toml_line(key: &str, given: &Given) -> String {
    let line = match given.secret() {
        Some(file) => format!("# {key} is in {}", file.display()),
        None => format!("{key} = {}  # {}", value(given), given.origin),
    };
    one_line(&line) + "\n"
}

fn json(origins: &[Given]) -> String {
    let entry = |given: &Given| {
        let value = if given.secret().is_some() { Json::Null } else { value(given) };
        (given.key.to_string(), json!({ "value": value, "origin": given.origin.to_string() }))
    };
    let entries: Map<String, Json> = origins.iter().map(entry).collect();
    format!("{:#}\n", Json::from(entries))
}

/// A number where a number is meant, else the text. Both are written alike in JSON and TOML.
fn value(given: &Given) -> Json {
    match (&given.key.setting().kind, given.text.trim().parse::<u64>()) {
        (Kind::Whole(_), Ok(number)) => json!(number),
        _ => json!(given.text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Source, load};
    use super::*;

    fn loaded(variables: &[(&str, &str)], args: &[&str]) -> Loaded {
        let source = Source {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            etc: "/nonexistent".into(),
            sites: vec!["/nonexistent".into()],
            directory: "/".into(),
        };
        load(&args.iter().map(OsString::from).collect::<Vec<_>>(), &source).unwrap()
    }

    #[test]
    fn every_value_is_shown_with_its_origin() {
        let shown = render(&loaded(&[("ATRIO_THREADS", "4"), ("PORT", "80")], &["--env", "A=b c"]), Format::Text);
        let rows: Vec<Vec<&str>> =
            shown.lines().map(|line| line.split("  ").filter(|w| !w.is_empty()).collect()).collect();
        for row in [["threads", "4", "ATRIO_THREADS"], ["listen", "80", "PORT"], ["env.A", "b c", "--env"]] {
            assert!(rows.iter().any(|cells| cells.iter().map(|cell| cell.trim()).eq(row)), "{row:?} not in\n{shown}");
        }
        assert!(rows.iter().any(|cells| cells.iter().map(|cell| cell.trim()).eq(["queue", "128", "default"])));
    }

    #[test]
    fn what_is_shown_as_env_or_toml_can_be_read_back() {
        let first = loaded(&[("ATRIO_THREADS", "4")], &["--env", "A=\"b\" # \\", "--admin-listen=off"]);
        let wanted = serde_json::to_value(&first.settings).unwrap();
        let env = render(&first, Format::Env);
        let variables: Vec<(&str, &str)> =
            env.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
        assert_eq!(serde_json::to_value(loaded(&variables, &[]).settings).unwrap(), wanted);

        let etc = std::env::temp_dir().join(format!("atrio-render-{}.toml", std::process::id()));
        std::fs::write(&etc, render(&first, Format::Toml)).unwrap();
        let source = Source { variables: vec![], etc: etc.clone(), sites: vec![], directory: "/".into() };
        let read = load(&[], &source);
        std::fs::remove_file(etc).unwrap();
        assert_eq!(serde_json::to_value(read.unwrap().settings).unwrap(), wanted);
    }

    #[test]
    fn the_format_is_taken_out_of_the_arguments() {
        let take = |words: &[&str]| {
            let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
            Format::take(&mut args).map(|format| (format, args.len())).map_err(|problems| problems.to_string())
        };
        assert_eq!(take(&["--threads", "3"]), Ok((Format::Text, 2)));
        assert_eq!(take(&["--format", "json", "--threads=3"]), Ok((Format::Json, 1)));
        assert_eq!(take(&["--format=env"]), Ok((Format::Env, 0)));
        assert!(take(&["--format"]).is_err() && take(&["--format=xml"]).is_err());
    }

    #[test]
    fn help_fits_its_width_and_names_every_setting() {
        let help = help();
        assert!(help.lines().all(|line| line.chars().count() <= WIDTH));
        assert!(super::super::table::settings().all(|setting| help.contains(&setting.variable())));
    }
}
