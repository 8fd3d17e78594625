//! From the text of a setting to its value.

use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::access_log::AccessLog;
use super::listen::Listen;
use super::table::{Kind, Setting};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Setting {
    /// The JSON that [`Settings`](super::Settings) reads this setting's field from, or what is wrong with `given`.
    pub(super) fn parse(&self, given: &str) -> Result<Json, String> {
        let text = given.trim();
        if self.none == Some(text) {
            return Ok(if self.is_list() { json!([]) } else { Json::Null });
        }
        if text.is_empty() {
            return Err("empty".into());
        }
        match &self.kind {
            Kind::Whole(range) => within(range, whole(text)?),
            Kind::Time(range) => within(range, time(text)?),
            Kind::Size(range) => within(range, size(text)?),
            Kind::Text | Kind::Path | Kind::Named => Ok(json!(given)),
            Kind::Paths => list(text, |path| Ok(path.to_owned())),
            Kind::Choice(words) if words.contains(&text) => Ok(json!(text)),
            Kind::Choice(_) => Err("no such choice".into()),
            Kind::Addresses => list(text, str::parse::<Listen>),
            Kind::Networks if text == "*" => Ok(json!(["0.0.0.0/0", "::/0"])),
            Kind::Networks => list(text, network),
            Kind::LogFilter => log_filter(text),
            Kind::AccessLog => AccessLog::parse(text, time).map(|log| json!(log)),
            Kind::Mode => mode(text),
        }
    }

    /// What to give instead of a wrong value.
    pub(super) fn remedy(&self) -> String {
        let form = match &self.kind {
            Kind::Whole(range) => format!("one from {} to {}", range.start(), range.end()),
            Kind::Time(range) => {
                let [least, most] = [range.start(), range.end()].map(|&time| humantime::format_duration(time));
                format!("one from {least} to {most}")
            }
            Kind::Size(range) => format!("one from {} to {}", size_text(*range.start()), size_text(*range.end())),
            Kind::Text | Kind::Named => "a name".into(),
            Kind::Path => "a path".into(),
            Kind::Paths => "paths with commas between".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Addresses => "host:port, unix:/path or fd:NAME".into(),
            Kind::Mode => "an octal number as 0027".into(),
            Kind::Networks => "networks as 10.0.0.0/8 with commas between".into(),
            Kind::AccessLog => AccessLog::REMEDY.into(),
            Kind::LogFilter => format!("one of {}, or target=level", LEVELS.join(", ")),
        };
        match self.none {
            Some(word) if !word.is_empty() => format!("give `{word}` or {form}"),
            _ => format!("give {form}"),
        }
    }

    fn is_list(&self) -> bool {
        matches!(self.kind, Kind::Paths | Kind::Addresses | Kind::Networks)
    }
}

fn within<T: PartialOrd + Serialize>(range: &std::ops::RangeInclusive<T>, value: T) -> Result<Json, String> {
    if range.contains(&value) { Ok(json!(value)) } else { Err("out of range".into()) }
}

fn list<T: Serialize>(text: &str, item: impl Fn(&str) -> Result<T, String>) -> Result<Json, String> {
    let items = text.split(',').map(str::trim);
    let items: Result<Vec<T>, String> =
        items.map(|part| if part.is_empty() { Err("an item is empty".into()) } else { item(part) }).collect();
    Ok(json!(items?))
}

fn whole(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "not a whole number".into())
}

/// `250ms`, `1h30m`; a bare number means seconds.
fn time(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|_| "not a time".into()),
    }
}

/// `64KiB`, `10MB`; a bare number means bytes.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("not a size".into()),
    };
    let number: u64 = number.parse().map_err(|_| "not a size")?;
    number.checked_mul(factor).ok_or_else(|| "out of range".into())
}

fn size_text(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.iter().find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    whole.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn network(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse().map(|address: std::net::IpAddr| address.into());
    text.parse().or_else(|_| alone()).map_err(|_| format!("`{text}` is not a network"))
}

/// `0027`. The zero in front tells that it is meant to be octal; TOML's `0o27` comes as the decimal 23.
fn mode(text: &str) -> Result<Json, String> {
    let digits = text.strip_prefix('0').filter(|rest| rest.bytes().all(|digit| digit.is_ascii_digit()));
    let bits = digits.and_then(|_| u32::from_str_radix(text, 8).ok()).filter(|bits| *bits <= 0o777);
    bits.map(|bits| json!(bits)).ok_or_else(|| "not an octal number with a 0 in front".into())
}

/// Refuses a lone word that is no level: `Targets` would take a misspelt one for a target, and log nothing else.
fn log_filter(text: &str) -> Result<Json, String> {
    let level = |directive: &&str| directive.rsplit('=').next().unwrap_or_default().trim().to_ascii_lowercase();
    let wrong = text.split(',').find(|directive| !LEVELS.contains(&level(directive).as_str()));
    match wrong {
        Some(directive) => Err(format!("`{}` has no level", directive.trim())),
        None => Ok(json!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_a_bare_number_means_seconds() {
        assert_eq!(time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(time("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5"), Ok(Duration::from_secs(5)));
        assert!(time("-5").is_err() && time("soon").is_err());
    }

    #[test]
    fn sizes_are_decimal_or_binary_and_a_bare_number_means_bytes() {
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("10 MB"), Ok(10_000_000));
        assert_eq!(size("1gib"), Ok(1 << 30));
        assert_eq!(size("77"), Ok(77));
        assert!(size("64K").is_err() && size("KiB").is_err() && size("99999999999999GB").is_err());
    }

    #[test]
    fn sizes_are_shown_in_their_largest_whole_unit() {
        assert_eq!([0, 1000, 1024, 1 << 20, 1 << 40].map(size_text), ["0", "1000", "1KiB", "1MiB", "1024GiB"]);
    }

    #[test]
    fn a_network_may_be_one_address() {
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(mode("0027"), Ok(json!(0o27)));
        assert_eq!(mode("0"), Ok(json!(0)));
        assert!(["27", "0o27", "0028", "01777", "x"].iter().all(|text| mode(text).is_err()));
    }

    #[test]
    fn a_log_filter_needs_a_level_in_every_directive() {
        assert!(log_filter("info").is_ok() && log_filter("warn, hyper=DEBUG").is_ok());
        assert_eq!(log_filter("info,verbose"), Err("`verbose` has no level".into()));
        assert_eq!(log_filter("hyper=loud"), Err("`hyper=loud` has no level".into()));
    }
}
