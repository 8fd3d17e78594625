//! The running instance, as commands on the same machine ask it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Listen;
use crate::exit::one_line;

/// For a whole conversation.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of an answer that are read.
const LIMIT: usize = 16 << 20;

/// An address of the instance, as it is reached from the same machine.
pub struct Address {
    shown: String,
    address: SockAddr,
    domain: Domain,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What was answered.
pub struct Answer {
    status_line: String,
    /// Its code, as text; empty when the answer was not HTTP.
    pub status: String,
    pub body: String,
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status_line = head.lines().next().unwrap_or_default();
        let status = status_line.strip_prefix("HTTP/").and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        Answer { status_line: status_line.into(), status: status.into(), body: body.into() }
    }

    /// That somebody else answers here, in a sentence.
    pub fn strange(&self) -> String {
        format!("the answer is not Atrio's: {}; is ATRIO_ADMIN_LISTEN right?", one_line(&self.status_line))
    }
}

impl Address {
    /// The first that can be asked: `fd:NAME` and port 0 are known to the instance alone. An address that stands for all of the
    /// machine's becomes the loopback one.
    pub fn of(listen: &[Listen]) -> Option<Self> {
        listen.iter().find_map(|listen| match listen {
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
        })
    }

    /// The answer to GET `path`, within two seconds. The error is a sentence.
    pub fn get(&self, path: &str, user_agent: &str) -> Result<Answer, String> {
        let deadline = Instant::now() + PATIENCE;
        let answer = self.connect(deadline).and_then(|socket| converse(socket, path, user_agent, deadline));
        answer.map_err(|error| format!("{self} does not answer: {error}; does atrio run here?"))
    }

    /// Whether it accepts connections.
    pub fn knock(&self) -> io::Result<()> {
        self.connect(Instant::now() + PATIENCE).map(drop)
    }

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
fn converse(mut socket: Socket, path: &str, user_agent: &str, deadline: Instant) -> io::Result<Answer> {
    let late = |error: io::Error| if error.kind() == io::ErrorKind::WouldBlock { too_late() } else { error };
    socket.set_write_timeout(Some(left(deadline)?))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nUser-Agent: {user_agent}\r\n\r\n");
    socket.write_all(request.as_bytes()).map_err(late)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while answer.len() < LIMIT {
        socket.set_read_timeout(Some(left(deadline)?))?;
        match socket.read(&mut buffer).map_err(late)? {
            0 => break,
            size => answer.extend_from_slice(&buffer[..size]),
        }
    }
    Ok(Answer::parse(&String::from_utf8_lossy(&answer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(listen: &str) -> Option<String> {
        Address::of(&[listen.parse().unwrap()]).map(|address| address.to_string())
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
}
