//! Addresses of the admin network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// An Ethernet address. Its text form is lower-case with colons, as Triton writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: expected six pairs of hex digits, as 90:b8:d0:01:02:03")]
pub struct MacError(String);

impl MacAddr {
    /// The form in a boot script's file name: upper-case, no separators (C§4.1).
    pub fn bare(self) -> String {
        self.0.iter().map(|b| format!("{b:02X}")).collect()
    }

    /// The form in host names and `BOOTIF`: lower-case with dashes (C§4.2).
    pub fn dashed(self) -> String {
        self.to_string().replace(':', "-")
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    /// Reads the forms with colons, with dashes and without separators; illumos drops leading
    /// zeros (`0:1b:21:a:b:c`), so with separators one digit is enough.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.to_owned());
        let parts: Vec<&str> = if text.contains([':', '-']) {
            text.split([':', '-']).collect()
        } else if text.len() == 12 && text.is_ascii() {
            (0..6).map(|i| &text[2 * i..2 * i + 2]).collect()
        } else {
            return Err(error());
        };
        let mut bytes = [0; 6];
        if parts.len() != 6 {
            return Err(error());
        }
        for (byte, part) in bytes.iter_mut().zip(parts) {
            if part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

/// The network of an address and its dotted mask; `None` when the mask has holes.
pub fn network(ip: Ipv4Addr, mask: Ipv4Addr) -> Option<Ipv4Net> {
    Ipv4Net::with_netmask(ip, mask).ok()
}

/// The address `count` after `ip`; `None` past the end of the address space.
pub fn offset(ip: Ipv4Addr, count: u32) -> Option<Ipv4Addr> {
    u32::from(ip).checked_add(count).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_written_forms_are_one_address() {
        let mac = MacAddr([0x00, 0x1b, 0x21, 0x0a, 0x0b, 0x0c]);
        for text in ["00:1b:21:0a:0b:0c", "00-1B-21-0A-0B-0C", "001b210a0b0c", "0:1b:21:a:b:c"] {
            assert_eq!(text.parse(), Ok(mac), "{text}");
        }
        assert_eq!(mac.bare(), "001B210A0B0C");
        assert_eq!(mac.dashed(), "00-1b-21-0a-0b-0c");
    }

    #[test]
    fn what_is_no_mac_is_refused() {
        for text in
            ["", "00:1b:21:0a:0b", "00:1b:21:0a:0b:0c:0d", "zz:1b:21:0a:0b:0c", "é01b210a0b0"]
        {
            assert!(text.parse::<MacAddr>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse::<MacAddr>(), Ok(mac));
            prop_assert_eq!(mac.bare().parse::<MacAddr>(), Ok(mac));
        }

        #[test]
        fn no_text_panics(text: String) {
            drop(text.parse::<MacAddr>());
        }
    }
}
