//! MAC addresses and IP prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("mac: wanted aa:bb:cc:dd:ee:ff, found {text:?}");
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Mac(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|b| format!("{b:02x}")).collect();
        f.write_str(&parts.join(":"))
    }
}

/// Address and prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("wanted an address with prefix length such as 10.88.0.5/16, found {text:?}");
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        if length > if address.is_ipv4() { 32 } else { 128 } {
            return Err(bad());
        }
        Ok(Prefix { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Prefix {
    pub fn family(&self) -> u8 {
        (if self.address.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        }) as u8
    }

    pub fn octets(&self) -> Vec<u8> {
        octets(self.address)
    }

    /// With the host part zero: the kernel refuses a route whose destination has one.
    pub fn masked(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask4(self.length))),
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
        };
        Prefix {
            address,
            length: self.length,
        }
    }

    /// Of IPv4 networks that have one.
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(a) if self.length < 31 => Some(Ipv4Addr::from(u32::from(a) | !mask4(self.length))),
            _ => None,
        }
    }
}

fn mask4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().into(),
        IpAddr::V6(a) => a.octets().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs() {
        assert_eq!(
            "0A:00:00:00:00:ff".parse::<Mac>().unwrap().to_string(),
            "0a:00:00:00:00:ff"
        );
        for bad in [
            "",
            "0a:00:00:00:00",
            "0a:00:00:00:00:00:00",
            "0a:00:00:00:00:g0",
            "0a:0:00:00:00:00",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefixes() {
        let masked = |text: &str| text.parse::<Prefix>().unwrap().masked().to_string();
        assert_eq!(masked("10.1.2.3/16"), "10.1.0.0/16");
        assert_eq!(masked("10.1.2.3/0"), "0.0.0.0/0");
        assert_eq!(masked("10.1.2.3/32"), "10.1.2.3/32");
        assert_eq!(masked("fd00::5/64"), "fd00::/64");
        assert_eq!(masked("fd00::5/0"), "::/0");
        assert_eq!(
            "10.88.0.5/16".parse::<Prefix>().unwrap().broadcast(),
            Some(Ipv4Addr::new(10, 88, 255, 255))
        );
        assert_eq!("10.88.0.5/32".parse::<Prefix>().unwrap().broadcast(), None);
        for bad in ["10.0.0.1", "10.0.0.1/33", "fd00::/129", "x/8", "10.0.0.1/-1"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
