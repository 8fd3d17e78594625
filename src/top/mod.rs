//! `atrio top`: what the running instance does, in a terminal.

mod lines;
mod screen;

use std::ffi::OsString;
use std::io::IsTerminal;

use crate::config::Settings;
use crate::instance::Address;
use crate::metrics::report::Report;

use lines::{Order, lines};

/// The flag that asks for one table.
const ONCE: &str = "--once";

/// Takes `--once` out of the arguments.
pub fn take_once(args: &mut Vec<OsString>) -> bool {
    let before = args.len();
    args.retain(|word| word != ONCE);
    args.len() < before
}

/// Shows the instance until the user has seen enough; or its state as text, when that is asked for or stdout is no terminal, as a return
/// value to be printed. The error is a sentence.
pub fn show(settings: &Settings, once: bool) -> Result<Option<String>, String> {
    let Some(address) = Address::of(&settings.admin_listen) else {
        return Err(
            "ATRIO_ADMIN_LISTEN has no address that can be asked; set it to that of the running instance".into()
        );
    };
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if once || dumb || !std::io::stdout().is_terminal() {
        let report = ask(&address)?;
        let text =
            lines(&report, None, Order::default()).into_iter().map(|line| line.text.trim_end().to_owned() + "\n");
        return Ok(Some(text.collect()));
    }
    screen::run(address).map_err(|error| format!("the terminal cannot be used: {error}; try atrio top {ONCE}"))?;
    Ok(None)
}

fn ask(address: &Address) -> Result<Report, String> {
    let answer = address.get("/status.json", "atrio-top")?;
    if answer.status != "200" {
        return Err(answer.strange());
    }
    serde_json::from_str(&answer.body).map_err(|_| format!("{address} is of another version of Atrio, or not Atrio's"))
}
