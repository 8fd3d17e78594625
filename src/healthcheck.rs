//! `atrio healthcheck`: asks the running instance whether it is ready, as a container's health check does.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Listen, Settings};
use crate::exit::one_line;

/// For the whole conversation.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const LIMIT: u64 = 64 * 1024;
const REQUEST: &[u8] = b"GET /readyz?verbose HTTP/1.0\r\nHost: localhost\r\nUser-Agent: atrio-healthcheck\r\n\r\n";

/// Asks the admin listener, or knocks at the site's when there is none; the reason when the instance is not ready.
pub fn ask(settings: &Settings) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    if let Some(address) = settings.admin_listen.iter().find_map(reachable) {
        let answer = address.connect(deadline).and_then(|socket| converse(socket, deadline));
        return judge(&answer.map_err(|error| format!("{address} does not answer: {error}; does atrio run here?"))?);
    }
    let Some(address) = settings.listen.iter().find_map(reachable) else {
        return Err("no address can be asked: those of the service manager (fd:) and port 0 are not known here; \
                    set ATRIO_ADMIN_LISTEN to an address"
            .into());
    };
    // What cannot be told is worth a word, in the health check's log.
    let _ = writeln!(
        io::stderr(),
        "atrio: ATRIO_ADMIN_LISTEN has no address to ask: only whether {address} accepts connections is checked"
    );
    let connected = address.connect(deadline);
    connected.map(drop).map_err(|error| format!("{address} does not accept connections: {error}"))
}

/// An address of the instance, as it is reached from the same machine.
struct Address {
    shown: String,
    address: SockAddr,
    domain: Domain,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// An address that stands for all of the machine's becomes the loopback one.
fn reachable(listen: &Listen) -> Option<Address> {
    match listen {
        Listen::Tcp(address) if address.port() > 0 => {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let address = SocketAddr::new(ip, address.port());
            let domain = Domain::for_address(address);
            Some(Address { shown: address.to_string(), address: address.into(), domain })
        }
        Listen::Unix(path) => {
            let address = SockAddr::unix(path).ok()?;
            Some(Address { shown: format!("unix:{}", path.display()), address, domain: Domain::UNIX })
        }
        Listen::Tcp(_) | Listen::Fd(_) => None,
    }
}

impl Address {
    fn connect(&self, deadline: Instant) -> io::Result<Socket> {
        let socket = Socket::new(self.domain, Type::STREAM, None)?;
        socket.connect_timeout(&self.address, left(deadline)?)?;
        Ok(socket)
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(too_late)
}

fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("it takes more than {} s", PATIENCE.as_secs()))
}

/// Sends the request and reads the answer to its end.
fn converse(mut socket: Socket, deadline: Instant) -> io::Result<String> {
    let late = |error: io::Error| if error.kind() == io::ErrorKind::WouldBlock { too_late() } else { error };
    socket.set_write_timeout(Some(left(deadline)?))?;
    socket.write_all(REQUEST).map_err(late)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while (answer.len() as u64) < LIMIT {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer).map_err(late)? {
            0 => break,
            size => answer.extend_from_slice(&buffer[..size]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Ready, or the checks that fail.
fn judge(answer: &str) -> Result<(), String> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        Some("503") => {
            let failed: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
            Err(format!("not ready: {}", one_line(&failed.join(", "))))
        }
        _ => Err(format!("the answer is not Atrio's: {}; is ATRIO_ADMIN_LISTEN right?", one_line(status))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listen: &str) -> Option<String> {
        reachable(&listen.parse().unwrap()).map(|address| address.to_string())
    }

    #[test]
    fn addresses_are_reached_on_this_machine() {
        assert_eq!(shown("0.0.0.0:9090").as_deref(), Some("127.0.0.1:9090"));
        assert_eq!(shown("[::]:9090").as_deref(), Some("[::1]:9090"));
        assert_eq!(shown("10.1.2.3:9090").as_deref(), Some("10.1.2.3:9090"));
        assert_eq!(shown("unix:/run/admin").as_deref(), Some("unix:/run/admin"));
        assert_eq!(shown("fd:admin"), None);
        assert_eq!(shown("127.0.0.1:0"), None);
    }

    #[test]
    fn failing_checks_are_told() {
        assert_eq!(judge("HTTP/1.0 200 OK\r\na: b\r\n\r\n[+]site ok\n"), Ok(()));
        let answer = "HTTP/1.0 503 Service Unavailable\r\n\r\n[-]site failed\n[+]not-draining ok\n[-]x failed\nreadyz";
        assert_eq!(judge(answer), Err("not ready: site failed, x failed".into()));
        assert!(judge("SSH-2.0-OpenSSH").is_err_and(|reason| reason.contains("not Atrio's: SSH-2.0")));
        assert!(judge("").is_err());
    }
}
