//! Addresses to listen on.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where connections are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Listen {
    Tcp(SocketAddr),
    /// `unix:/run/atrio.sock`
    Unix(PathBuf),
    /// `fd:NAME`: a socket that systemd hands over under this name.
    Fd(String),
}

impl FromStr for Listen {
    type Err = String;

    /// Reads `8080`, `:8080`, `host:8080`, `[::]:8080`, `unix:/path` or `fd:NAME`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix" | "fd", "")) => Err(format!("`{text}` names nothing")),
            Some(("unix", path)) => Ok(Listen::Unix(path.into())),
            Some(("fd", name)) => Ok(Listen::Fd(name.to_owned())),
            _ => {
                let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
                on_host(host, port)
            }
        }
    }
}

fn on_host(host: &str, port: &str) -> Result<Listen, String> {
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
    match host {
        "" => return Ok(Listen::Tcp((Ipv4Addr::UNSPECIFIED, port).into())),
        "localhost" => return Ok(Listen::Tcp((Ipv4Addr::LOCALHOST, port).into())),
        _ => {}
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(format!("`{host}` needs brackets: [{host}]:{port}"));
    }
    let found = format!("{host}:{port}").to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    found.map(Listen::Tcp).ok_or_else(|| format!("`{host}` is not a known host"))
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Fd(name) => write!(f, "fd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Listen>().map_or_else(|wrong| wrong, |address| address.to_string())
    }

    #[test]
    fn every_form_of_address_is_understood() {
        assert_eq!(shown("8080"), "0.0.0.0:8080");
        assert_eq!(shown(":8080"), "0.0.0.0:8080");
        assert_eq!(shown("127.0.0.1:0"), "127.0.0.1:0");
        assert_eq!(shown("localhost:80"), "127.0.0.1:80");
        assert_eq!(shown("[::]:80"), "[::]:80");
        assert_eq!(shown("unix:/run/atrio.sock"), "unix:/run/atrio.sock");
        assert_eq!(shown("fd:web"), "fd:web");
    }

    #[test]
    fn a_wrong_address_says_which_part_is_wrong() {
        assert_eq!(shown("99999"), "`99999` is not a port");
        assert_eq!(shown("127.0.0.1:http"), "`http` is not a port");
        assert_eq!(shown("::1:80"), "`::1` needs brackets: [::1]:80");
        assert_eq!(shown("unix:"), "`unix:` names nothing");
    }
}
