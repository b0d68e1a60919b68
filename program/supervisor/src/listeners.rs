//! The sockets of master.cf, bound here and handed to the engine.
//!
//! A reload keeps every socket whose address stays: connections that wait in its backlog are not lost.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};
use yamabiko_config::{Config, Host};
use yamabiko_ipc::control;

use crate::layout::StartError;

/// Waiting connections per socket; the kernel has its own, usually smaller, limit.
const BACKLOG: i32 = 4096;

/// The open sockets of an instance.
#[derive(Debug, Default)]
pub struct Listeners {
    control: Option<OwnedFd>,
    inet: BTreeMap<SocketAddr, OwnedFd>,
}

/// An address to listen on and the position of its service in master.cf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub address: SocketAddr,
    /// Whose.
    pub service: u32,
}

/// Where an instance would listen.
///
/// # Errors
/// A port or a host name that is not known.
pub fn addresses_wanted(config: &Config) -> Result<Vec<SocketAddr>, StartError> {
    let wanted = wanted(config, &Host::of_this_machine("master"))?;
    Ok(wanted.into_iter().map(|wanted| wanted.address).collect())
}

/// The addresses that master.cf and `inet_interfaces` ask for, of services that exist here.
pub fn wanted(config: &Config, host: &Host) -> Result<Vec<Wanted>, StartError> {
    let mut all = Vec::new();
    // `smtps=submissions=465`, as lines of that file.
    let known = config.main().list("known_tcp_ports");
    let known = known.iter().filter_map(|word| {
        let (names, port) = word.rsplit_once('=')?;
        Some(names.split('=').map(|name| format!("{name} {port}/tcp\n")).collect::<String>())
    });
    let names = known.collect::<String>() + &std::fs::read_to_string("/etc/services").unwrap_or_default();
    for (position, service) in config.services().iter().enumerate() {
        let answered = matches!(service.command.as_str(), "smtpd" | "postscreen" | "spawn");
        let Some(listen) = service.listen().filter(|_| answered) else { continue };
        let trouble = |why: String| StartError(format!("{}: service {}: {why}", service.place, service.name));
        let port = listen.port_number(&names).ok_or_else(|| trouble(format!("unknown port {}", listen.port)))?;
        let found = addresses(config, host, listen.host.as_deref(), port).map_err(trouble)?;
        // The number of services is bounded by the size of a file.
        all.extend(found.into_iter().map(|address| Wanted { address, service: position as u32 }));
    }
    Ok(all)
}

fn addresses(config: &Config, host: &Host, named: Option<&str>, port: u16) -> Result<Vec<SocketAddr>, String> {
    let main = config.main();
    let protocols = main.list("inet_protocols");
    let everything = protocols.iter().any(|p| p == "all");
    let v4 = everything || protocols.iter().any(|p| p == "ipv4");
    let v6 =
        (everything || protocols.iter().any(|p| p == "ipv6")) && host.interfaces.iter().any(|i| i.address.is_ipv6());
    let wanted = |ip: &IpAddr| if ip.is_ipv4() { v4 } else { v6 };
    let mut found = Vec::new();
    let mut add = |ip: IpAddr| {
        if wanted(&ip) && !found.contains(&SocketAddr::new(ip, port)) {
            found.push(SocketAddr::new(ip, port));
        }
    };
    let names = match named {
        Some(name) => vec![name.to_owned()],
        None => main.list("inet_interfaces"),
    };
    for name in &names {
        match name.as_str() {
            "all" => {
                add(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                add(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            }
            "loopback-only" => {
                add(IpAddr::V4(Ipv4Addr::LOCALHOST));
                add(IpAddr::V6(Ipv6Addr::LOCALHOST));
            }
            name => {
                let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
                match bare.parse::<IpAddr>() {
                    Ok(ip) => add(ip),
                    Err(_) => {
                        let looked_up = std::net::ToSocketAddrs::to_socket_addrs(&(bare, port));
                        for address in looked_up.map_err(|error| format!("cannot look up {bare}: {error}"))? {
                            add(address.ip());
                        }
                    }
                }
            }
        }
    }
    Ok(found)
}

impl Listeners {
    /// Opens what is wanted and not open yet; says what would not open. Sockets no longer wanted are closed by
    /// [`Listeners::retain`], once the engine has let go of them.
    pub fn open(
        &mut self,
        config: &Config,
        queue_directory: &Path,
        owner: (u32, u32),
        wanted: &[Wanted],
    ) -> Result<(), StartError> {
        if self.control.is_none() {
            self.control = Some(control_socket(queue_directory, owner)?);
        }
        let window = usize::try_from(config.main().int("tcp_windowsize")).unwrap_or(0);
        for Wanted { address, service } in wanted {
            if !self.inet.contains_key(address) {
                let place = config.services().get(*service as usize).map(|service| service.place.to_string());
                let socket = bind(*address, window).map_err(|error| unbound(*address, place.as_deref(), &error))?;
                self.inet.insert(*address, socket);
            }
        }
        Ok(())
    }

    /// Copies of the sockets in the order of [`yamabiko_ipc::boss::Order::Configure`].
    pub fn copies(&self, wanted: &[Wanted]) -> io::Result<Vec<OwnedFd>> {
        let inet = wanted.iter().filter_map(|w| self.inet.get(&w.address));
        self.control.iter().chain(inet).map(|fd| fd.as_fd().try_clone_to_owned()).collect()
    }

    /// Closes the sockets that nobody wants any more.
    pub fn retain(&mut self, wanted: &[Wanted]) {
        self.inet.retain(|address, _| wanted.iter().any(|w| w.address == *address));
    }
}

/// Why a port could not be had, and what to do about it.
fn unbound(address: SocketAddr, place: Option<&str>, error: &io::Error) -> StartError {
    let (ip, port) = (address.ip(), address.port());
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => format!("; another program has it: \"ss -ltnp sport = :{port}\" says which"),
        io::ErrorKind::PermissionDenied if port < 1024 => "; ports below 1024 are for root".to_owned(),
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address".to_owned(),
        _ => String::new(),
    };
    let why = error.to_string();
    let why = why.split_once(" (os error ").map_or(&*why, |(words, _)| words);
    StartError(format!("{}: bind {ip} port {port}: {why}{advice}", place.unwrap_or("master.cf")))
}

/// A socket that listens; `window` is the size of its buffers in bytes, 0 leaves them to the system.
fn bind(address: SocketAddr, window: usize) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if window > 0 {
        // Connections have what the listening socket has.
        socket.set_recv_buffer_size(window)?;
        socket.set_send_buffer_size(window)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Everybody may connect: who may do what is decided by the caller's user ID, which the kernel tells.
fn control_socket(queue_directory: &Path, (uid, gid): (u32, u32)) -> Result<OwnedFd, StartError> {
    let path = control::socket_path(queue_directory);
    let trouble = |error: io::Error| StartError(format!("cannot listen on {}: {error}", path.display()));
    // We hold the lock on the pid file, so a socket that is there is a dead one.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(trouble(error)),
        _ => {}
    }
    // The directory is the mail owner's: nothing is done to the name once it is there but what does not follow links.
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o111));
    let bound = UnixListener::bind(&path);
    nix::sys::stat::umask(umask);
    let listener = bound.map_err(trouble)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(trouble)?;
    }
    listener.set_nonblocking(true).map_err(trouble)?;
    Ok(listener.into())
}
