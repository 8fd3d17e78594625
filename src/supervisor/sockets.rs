//! Binds the listening sockets once, for all generations of workers; or takes over those of systemd.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::config::{Listen, Settings};
use crate::control::Bound;
use crate::exit::{Code, Failure};
use crate::os;

/// Connections that the kernel keeps until a worker accepts them; it takes `net.core.somaxconn` if that is less.
const BACKLOG: i32 = 4096;

/// A bound socket that listens.
pub struct Listener {
    pub fd: OwnedFd,
    pub bound: Bound,
    /// It ends with this server, and has not done so yet. One of the service manager's lives on, and what waits there is for the next
    /// server.
    ours: bool,
}

impl Listener {
    /// Makes the kernel refuse new connections, whoever has a copy of the socket, while those that it has made can still be taken:
    /// closing the last copy would reset them. Nothing comes from an interface that there is not; Linux before 5.7 lets only root say
    /// so, and then what connects between the workers' last look and the close is reset. The port where connections may be half made.
    pub fn refuse(&mut self) -> Option<u16> {
        if !std::mem::take(&mut self.ours) {
            return None;
        }
        match &self.bound {
            Bound::Tcp(address) => {
                let _ = SockRef::from(&self.fd).bind_device_by_index_v4(NonZeroU32::new(i32::MAX as u32));
                Some(address.port())
            }
            Bound::Unix(path) => {
                let _ = std::fs::remove_file(path);
                None
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// Whether a connection to one of the ports is being made: the kernel has answered the client, who has yet to say that it heard.
pub fn handshakes(ports: &[u16]) -> bool {
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).any(|table| half_open(&table, ports))
}

fn half_open(table: &str, ports: &[u16]) -> bool {
    const SYN_RECV: &str = "03";
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit(':').next());
        let port = local.and_then(|port| u16::from_str_radix(port, 16).ok());
        fields.nth(1) == Some(SYN_RECV) && port.is_some_and(|port| ports.contains(&port))
    })
}

/// Sockets that the service manager handed over, with their names (`LISTEN_FDS`, `LISTEN_FDNAMES`).
pub fn activated() -> Vec<(String, OwnedFd)> {
    let Ok(fds) = sd_notify::listen_fds_with_names() else { return Vec::new() };
    fds.filter_map(|(fd, name)| Some((name, os::inherited(fd).ok()?))).collect()
}

/// Where the site is served: what `ATRIO_LISTEN` says if it is given, else the sockets that the service manager has handed over, but
/// for those that `ATRIO_ADMIN_LISTEN` names.
pub fn of_site(
    settings: &Settings,
    explicit: bool,
    activated: &mut Vec<(String, OwnedFd)>,
) -> Result<Vec<Listener>, Failure> {
    let (admin, site): (Vec<_>, Vec<_>) =
        activated.drain(..).partition(|(name, _)| settings.admin_listen.contains(&Listen::Fd(name.clone())));
    *activated = admin;
    if explicit || site.is_empty() {
        activated.extend(site);
        return bind("ATRIO_LISTEN", &settings.listen, activated);
    }
    let adopted = site.into_iter().map(|(_, fd)| adopt(fd)).collect::<io::Result<_>>();
    adopted.map_err(|error| Failure::os("a socket of the service manager cannot be used", error))
}

/// Binds every address of the setting `variable`.
pub fn bind(
    variable: &str,
    addresses: &[Listen],
    activated: &mut Vec<(String, OwnedFd)>,
) -> Result<Vec<Listener>, Failure> {
    addresses.iter().map(|address| one(variable, address, activated)).collect()
}

fn one(variable: &str, address: &Listen, activated: &mut Vec<(String, OwnedFd)>) -> Result<Listener, Failure> {
    match address {
        Listen::Tcp(address) => tcp(*address).map_err(|error| explain(variable, &address.to_string(), &error)),
        Listen::Unix(path) => unix(path).map_err(|error| explain(variable, &path.display().to_string(), &error)),
        Listen::Fd(name) => {
            let at = activated.iter().position(|(given, _)| given == name).ok_or_else(|| {
                let given: Vec<&str> = activated.iter().map(|(name, _)| &**name).collect();
                let given = if given.is_empty() { "none".into() } else { given.join(", ") };
                Failure::config(format!(
                    "{variable}=fd:{name}: the service manager gave no socket of that name (given: {given}); see FileDescriptorName= in systemd.socket"
                ))
            })?;
            adopt(activated.swap_remove(at).1).map_err(|error| explain(variable, &format!("fd:{name}"), &error))
        }
    }
}

/// Takes over a socket that listens already.
pub fn adopt(fd: OwnedFd) -> io::Result<Listener> {
    let socket = Socket::from(fd);
    let address = socket.local_addr()?;
    let bound = match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Bound::Tcp(address),
        (None, path) => Bound::Unix(path.unwrap_or(Path::new("")).to_owned()),
    };
    Ok(Listener { fd: socket.into(), bound, ours: false })
}

fn tcp(address: SocketAddr) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Listener { fd: socket.into(), bound: Bound::Tcp(bound), ours: true })
}

fn unix(path: &Path) -> io::Result<Listener> {
    // A socket file that nobody listens on was left by a process that was killed.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener { fd: listener.into(), bound: Bound::Unix(path.to_owned()), ours: true })
}

fn explain(variable: &str, address: &str, error: &io::Error) -> Failure {
    let (code, remedy) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            (Code::Unavailable, "something else listens there; stop it or choose another address")
        }
        io::ErrorKind::PermissionDenied => {
            (Code::Permission, "ports below 1024 and this folder need a privilege; choose another address")
        }
        io::ErrorKind::AddrNotAvailable => {
            (Code::Unavailable, "this machine has no such address; 0.0.0.0 stands for all")
        }
        io::ErrorKind::NotFound => (Code::Config, "the folder of the socket does not exist; make it"),
        _ => (Code::Unavailable, "choose another address"),
    };
    Failure::new(code, format!("{variable}: cannot listen on {address}: {error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_open_connection_is_one_of_the_right_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
               0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000\n\
               1: 0100007F:1F90 0100007F:C350 03 00000000:00000000 01:00000000\n";
        assert!(half_open(table, &[80, 8080]));
        assert!(!half_open(table, &[80]));
        assert!(!half_open(&table.replace(" 03 ", " 01 "), &[8080]));
    }
}
