//! What the configuration needs to know of the machine: name, interface addresses, process.

use std::net::IpAddr;

/// An address of a network interface and the length of its network prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network part.
    pub prefix: u8,
}

/// The machine as the configuration sees it. Tests make one up; programs take [`Host::of_this_machine`].
#[derive(Debug, Clone)]
pub struct Host {
    /// The host's name as the system says it, with or without domain.
    pub hostname: String,
    /// The addresses of interfaces that are up, in the system's order.
    pub interfaces: Vec<Interface>,
    /// The process.
    pub process_id: u32,
    /// Name of the process, the value of `$process_name`.
    pub process_name: String,
    /// Addresses of a host named in `inet_interfaces`.
    pub resolve: fn(&str) -> Vec<IpAddr>,
}

impl Default for Host {
    /// A host named `localhost` with the loopback addresses only, which resolves no other name.
    fn default() -> Host {
        Host {
            hostname: "localhost".into(),
            interfaces: vec![
                Interface { address: IpAddr::from([127, 0, 0, 1]), prefix: 8 },
                Interface { address: IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]), prefix: 128 },
            ],
            process_id: 1,
            process_name: "yamabiko".into(),
            resolve: |name| {
                if name == "localhost" {
                    vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16])]
                } else {
                    Vec::new()
                }
            },
        }
    }
}

impl Host {
    /// Asks the system: host name, interfaces that are up, process id; names in `inet_interfaces` are resolved by the system.
    /// What the system does not tell is left at the default.
    pub fn of_this_machine(process_name: &str) -> Host {
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let mut interfaces = Vec::new();
        if let Ok(addresses) = nix::ifaddrs::getifaddrs() {
            for item in addresses.filter(|item| item.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP)) {
                let Some(address) = item.address.as_ref().and_then(ip_of) else { continue };
                let whole = if address.is_ipv4() { 32 } else { 128 };
                let prefix = item.netmask.as_ref().and_then(ip_of).map_or(whole, prefix_of);
                interfaces.push(Interface { address, prefix });
            }
        }
        Host {
            hostname: hostname.unwrap_or_else(|| "localhost".into()),
            interfaces,
            process_id: std::process::id(),
            process_name: process_name.to_string(),
            resolve: |name| {
                use std::net::ToSocketAddrs;
                (name, 0).to_socket_addrs().map(|found| found.map(|socket| socket.ip()).collect()).unwrap_or_default()
            },
        }
    }
}

fn ip_of(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()))
}

fn prefix_of(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(mask) => u32::from(mask).leading_ones(),
        IpAddr::V6(mask) => u128::from(mask).leading_ones(),
    };
    // At most 128.
    u8::try_from(ones).unwrap_or(128)
}

/// The network of an address: `192.0.2.0/24`, `[2001:db8::]/64`, as `mynetworks` shows it.
pub(crate) fn network(address: IpAddr, prefix: u8) -> String {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            format!("{}/{}", std::net::Ipv4Addr::from(u32::from(v4) & mask), prefix)
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            format!("[{}]/{}", std::net::Ipv6Addr::from(u128::from(v6) & mask), prefix)
        }
    }
}

/// `mynetworks` by `mynetworks_style`, over the machine's own addresses. Each network once, in the order of the addresses.
pub(crate) fn mynetworks(style: &str, own: &[Interface]) -> String {
    let mut networks: Vec<String> = Vec::new();
    for Interface { address, prefix } in own {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match (style, address) {
            ("host", _) => whole,
            ("class", IpAddr::V4(v4)) => class_prefix(v4.octets()[0]),
            _ => *prefix,
        };
        let network = network(*address, prefix);
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    networks.join(" ")
}

/// Network classes A, B, C of RFC 791; D and E count as single hosts.
fn class_prefix(first_octet: u8) -> u8 {
    match first_octet {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => 32,
    }
}

/// The addresses that `inet_interfaces` and `inet_protocols` choose of the machine's, and the names that have none.
pub(crate) fn own_addresses(interfaces: &[String], protocols: &[String], host: &Host) -> (Vec<Interface>, Vec<String>) {
    let wanted = |address: &IpAddr| {
        protocols.is_empty()
            || protocols.iter().any(|protocol| match protocol.to_ascii_lowercase().as_str() {
                "all" => true,
                "ipv4" => address.is_ipv4(),
                "ipv6" => address.is_ipv6(),
                _ => false,
            })
    };
    let mut own: Vec<Interface> = Vec::new();
    let mut unresolved = Vec::new();
    let mut add = |interface: Interface| {
        if wanted(&interface.address) && !own.iter().any(|known| known.address == interface.address) {
            own.push(interface);
        }
    };
    for word in interfaces {
        match word.to_ascii_lowercase().as_str() {
            "all" => host.interfaces.iter().copied().for_each(&mut add),
            "loopback-only" => {
                host.interfaces.iter().copied().filter(|interface| interface.address.is_loopback()).for_each(&mut add);
            }
            name => {
                let bare = name.trim_start_matches('[').trim_end_matches(']');
                let addresses = match bare.parse::<IpAddr>() {
                    Ok(address) => vec![address],
                    Err(_) => (host.resolve)(bare),
                };
                if addresses.is_empty() {
                    unresolved.push(bare.to_string());
                }
                for address in addresses {
                    let known = host.interfaces.iter().copied().find(|interface| interface.address == address);
                    let whole = if address.is_ipv4() { 32 } else { 128 };
                    add(known.unwrap_or(Interface { address, prefix: whole }));
                }
            }
        }
    }
    (own, unresolved)
}
