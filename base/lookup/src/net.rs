//! Networks `address/prefix` as Postfix reads them in match lists and cidr tables.

use std::net::IpAddr;

/// A network, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        // Shifted to the top, so that both families are masked alike.
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

fn mask(prefix: u8) -> u128 {
    // A shift by 128 is none that Rust knows: prefix 0 masks everything.
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl Network {
    /// Reads `address`, `address/prefix`, with the address in brackets if one likes (`[::1]/128` or `[::1/128]`).
    /// The error is Postfix's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = match text.strip_prefix('[') {
            None => text.to_owned(),
            Some(rest) => {
                let Some((inside, after)) = rest.split_once(']') else {
                    return Err(format!("missing ']' character after \"{text}\""));
                };
                if !(after.is_empty() || after.starts_with('/') && after.len() > 1 && !inside.contains('/')) {
                    return Err(format!("garbage after \"[{inside}]\""));
                }
                format!("{inside}{after}")
            }
        };
        let (address_text, prefix_text) = match inner.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (&*inner, None),
        };
        let Some(mask_text) = prefix_text else {
            let address: IpAddr = address_text.parse().map_err(|_| format!("bad address pattern: \"{inner}\""))?;
            return Ok(Self { address, prefix: bits(address).1 });
        };
        if mask_text.is_empty() || !mask_text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("bad mask value in \"{inner}\""));
        }
        let Ok(address) = address_text.parse::<IpAddr>() else {
            return Err(format!("bad network value in \"{inner}\""));
        };
        let Some(prefix) = mask_text.parse::<u8>().ok().filter(|&prefix| prefix <= bits(address).1) else {
            return Err(format!("bad mask length in \"{inner}\""));
        };
        let (value, _) = bits(address);
        if value & !mask(prefix) != 0 {
            let network = match address {
                // The upper 32 bits hold the IPv4 address.
                IpAddr::V4(_) => IpAddr::from(
                    ((value & mask(prefix)) >> 96).to_be_bytes().last_chunk::<4>().copied().unwrap_or_default(),
                ),
                IpAddr::V6(_) => IpAddr::from((value & mask(prefix)).to_be_bytes()),
            };
            return Err(format!(
                "non-null host address bits in \"{inner}\", perhaps you should use \"{network}/{prefix}\" instead"
            ));
        }
        Ok(Self { address, prefix })
    }

    /// The address is of the same family, and not in the network.
    pub fn excludes(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && !self.contains(address)
    }

    /// The address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ((ours, family), (theirs, other)) = (bits(self.address), bits(address));
        family == other && (ours ^ theirs) & mask(self.prefix) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        let cases = [
            ("192.0.2.0/24", "192.0.2.77", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("[::1]/128", "::1", true),
            ("[::1/128]", "::1", true),
            ("[::1]", "::2", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
        ];
        for (network, address, expected) in cases {
            assert_eq!(Network::parse(network).unwrap().contains(address.parse().unwrap()), expected, "{network}");
        }
    }

    #[test]
    fn bad_networks() {
        for (text, expected) in [
            (
                "192.0.2.128/24",
                "non-null host address bits in \"192.0.2.128/24\", perhaps you should use \"192.0.2.0/24\" instead",
            ),
            ("192.0.2.0/33", "bad mask length in \"192.0.2.0/33\""),
            ("192.0.2.0/+3", "bad mask value in \"192.0.2.0/+3\""),
            ("192.0.2", "bad address pattern: \"192.0.2\""),
            ("[::1", "missing ']' character after \"[::1\""),
        ] {
            assert_eq!(Network::parse(text).unwrap_err(), expected);
        }
    }
}
