//! `atrio healthcheck`: asks the running instance whether it is ready, as a container's health check does.

use std::io::{self, Write};

use crate::config::Settings;
use crate::exit::one_line;
use crate::instance::{Address, Answer};

/// Asks the admin listener, or knocks at the site's when there is none; the reason when the instance is not ready.
pub fn ask(settings: &Settings) -> Result<(), String> {
    if let Some(address) = Address::of(&settings.admin_listen) {
        return judge(&address.get("/readyz?verbose", "atrio-healthcheck")?);
    }
    let Some(address) = Address::of(&settings.listen) else {
        return Err("no address can be asked: those of the service manager (fd:) and port 0 are not known here; \
                    set ATRIO_ADMIN_LISTEN to an address"
            .into());
    };
    // What cannot be told is worth a word, in the health check's log.
    let _ = writeln!(
        io::stderr(),
        "atrio: ATRIO_ADMIN_LISTEN has no address to ask: only whether {address} accepts connections is checked"
    );
    address.knock().map_err(|error| format!("{address} does not accept connections: {error}"))
}

/// Ready, or the checks that fail.
fn judge(answer: &Answer) -> Result<(), String> {
    match answer.status.as_str() {
        "200" => Ok(()),
        "503" => {
            let failed: Vec<&str> = answer.body.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
            Err(format!("not ready: {}", one_line(&failed.join(", "))))
        }
        _ => Err(answer.strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_checks_are_told() {
        let judge = |answer: &str| judge(&Answer::parse(answer));
        assert_eq!(judge("HTTP/1.0 200 OK\r\na: b\r\n\r\n[+]site ok\n"), Ok(()));
        let answer = "HTTP/1.0 503 Service Unavailable\r\n\r\n[-]site failed\n[+]not-draining ok\n[-]x failed\nreadyz";
        assert_eq!(judge(answer), Err("not ready: site failed, x failed".into()));
        assert!(judge("SSH-2.0-OpenSSH").is_err_and(|reason| reason.contains("not Atrio's: SSH-2.0")));
        assert!(judge("").is_err());
    }
}
