//! What is written into the access log, and how: `json`, `combined,slow=1s`, `slow=1s,sample=5%`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The setting, as [`AccessLog::parse`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessLog {
    pub form: Form,
    /// Requests that take so long are written.
    pub slow: Option<Duration>,
    /// The part of all others that is written. Without `slow` and `sample`, all are.
    pub sample: Option<f64>,
}

/// The form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Text on a terminal, JSON elsewhere.
    On,
    Off,
    /// The Common Log Format.
    Common,
    /// The Common Log Format with referrer and user agent, as Apache's `combined`.
    Combined,
    Json,
}

impl AccessLog {
    pub const REMEDY: &str = "on, off, common, combined or json, and behind it or alone slow=1s, sample=10%";

    /// A form, if any, and conditions, in any order.
    pub fn parse(text: &str, time: fn(&str) -> Result<Duration, String>) -> Result<Self, String> {
        let (mut form, mut slow, mut sample) = (None, None, None);
        for part in text.split(',').map(str::trim) {
            let twice = match part.split_once('=') {
                Some(("slow", limit)) => {
                    slow.replace(time(limit).map_err(|wrong| format!("`{limit}` is {wrong}"))?).is_some()
                }
                Some(("sample", part)) => sample.replace(percentage(part)?).is_some(),
                _ => form.replace(Form::named(part).ok_or_else(|| format!("no such choice as `{part}`"))?).is_some(),
            };
            if twice {
                return Err(format!("`{part}` says again what was said already"));
            }
        }
        if form == Some(Form::Off) && (slow.is_some() || sample.is_some()) {
            return Err("what is off has nothing to choose from".into());
        }
        Ok(AccessLog { form: form.unwrap_or(Form::On), slow, sample })
    }
}

impl Form {
    fn named(word: &str) -> Option<Self> {
        Some(match word {
            "on" => Form::On,
            "off" => Form::Off,
            "common" => Form::Common,
            "combined" => Form::Combined,
            "json" => Form::Json,
            _ => return None,
        })
    }
}

/// `5%`, `0.1%`.
fn percentage(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let part = number.filter(|number| (0.0..=100.0).contains(number)).map(|number| number / 100.0);
    part.ok_or_else(|| format!("`{text}` is no percentage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AccessLog, String> {
        AccessLog::parse(text, |text| humantime::parse_duration(text).map_err(|_| "not a time".into()))
    }

    #[test]
    fn a_form_and_conditions_stand_in_any_order() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(parse("json"), Ok(AccessLog { form: Form::Json, slow: None, sample: None }));
        assert_eq!(parse("slow=1s"), Ok(AccessLog { form: Form::On, slow: second, sample: None }));
        let both = AccessLog { form: Form::Common, slow: second, sample: Some(0.05) };
        assert_eq!(parse("common, slow=1s, sample=5%"), Ok(both));
        assert_eq!(parse("sample=5%,common,slow=1s"), Ok(both));
        for wrong in [
            "",
            "jsn",
            "slow",
            "slow=",
            "slow=x",
            "sample=5",
            "sample=101%",
            "sample=-1%",
            "sample=NaN%",
            "off,slow=1s",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("json,common").is_err() && parse("slow=1s,slow=2s").is_err());
    }
}
