//! Name and addresses of this machine.

use std::io;
use std::net::IpAddr;

/// What gethostname(2) says.
pub fn name() -> io::Result<String> {
    Ok(nix::unistd::gethostname().map_err(crate::io)?.to_string_lossy().into_owned())
}

/// An address of an interface that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix, in bits.
    pub prefix: u8,
    /// The interface is a loopback.
    pub loopback: bool,
}

/// The addresses of all interfaces that are up, in the kernel's order, without repetitions.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    use nix::ifaddrs::getifaddrs;
    use nix::net::if_::InterfaceFlags;
    let mut found: Vec<Interface> = Vec::new();
    for entry in getifaddrs().map_err(crate::io)? {
        if !entry.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let ip = |address: Option<&nix::sys::socket::SockaddrStorage>| {
            let address = address?;
            match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
                (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
                _ => None,
            }
        };
        let Some(address) = ip(entry.address.as_ref()) else { continue };
        let prefix = match ip(entry.netmask.as_ref()) {
            Some(IpAddr::V4(mask)) => u32::from(mask).leading_ones(),
            Some(IpAddr::V6(mask)) => u128::from(mask).leading_ones(),
            None if address.is_ipv4() => 32,
            None => 128,
        };
        if found.iter().all(|known| known.address != address) {
            let loopback = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            // At most 128.
            found.push(Interface { address, prefix: prefix as u8, loopback });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine() {
        assert!(!super::name().unwrap().is_empty());
        for interface in super::interfaces().unwrap() {
            assert!(interface.prefix <= 128);
            assert_eq!(interface.loopback, interface.address.is_loopback() || interface.loopback);
        }
    }
}
