//! What is agreed with a client about a transfer (RFC 2347, 2348, 2349, 7440).

use std::time::Duration;

use super::packet::ReadRequest;

/// Largest block that fits an Ethernet frame of 1500 bytes: less 20 for IP, 8 for UDP, 4 for TFTP.
/// Many boot ROMs cannot put fragments together, so we never agree to more.
const BLOCK_MAX: u64 = 1468;
/// Blocks sent without waiting; more overruns the few receive buffers of a boot ROM.
pub const WINDOW_MAX: u64 = 32;

/// The terms of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Bytes per block.
    pub block: usize,
    /// Blocks per acknowledgement.
    pub window: usize,
    /// Fixed time before something is sent again, when the client has asked for one.
    pub timeout: Option<Duration>,
    /// What is told to the client; empty when it has asked for nothing that we know.
    pub accepted: Vec<(&'static str, u64)>,
}

impl Terms {
    /// The terms for a request. Options that we do not know, or with values that RFCs do not
    /// allow, are left out of the answer, as RFC 2347 wants.
    pub fn agree(request: &ReadRequest, size: u64) -> Self {
        let mut terms = Self { block: 512, window: 1, timeout: None, accepted: Vec::new() };
        for (name, value) in &request.options {
            let Ok(value) = value.trim().parse::<u64>() else { continue };
            // The first of two counts.
            if terms.accepted.iter().any(|(known, _)| known == name) {
                continue;
            }
            let accepted = match name.as_str() {
                "blksize" if (8..=65464).contains(&value) => {
                    let block = value.min(BLOCK_MAX);
                    terms.block = usize::try_from(block).unwrap_or(512);
                    ("blksize", block)
                }
                "windowsize" if (1..=65535).contains(&value) => {
                    let window = value.min(WINDOW_MAX);
                    terms.window = usize::try_from(window).unwrap_or(1);
                    ("windowsize", window)
                }
                "timeout" if (1..=255).contains(&value) => {
                    terms.timeout = Some(Duration::from_secs(value));
                    ("timeout", value)
                }
                "tsize" => ("tsize", size),
                _ => continue,
            };
            terms.accepted.push(accepted);
        }
        terms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(options: &[(&str, &str)]) -> Terms {
        let options = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let request = ReadRequest { name: "a".to_owned(), mode: "octet".to_owned(), options };
        Terms::agree(&request, 1234)
    }

    #[test]
    fn known_options_are_accepted_within_our_limits() {
        let terms = agree(&[
            ("tsize", "0"),
            ("blksize", "8192"),
            ("windowsize", "64"),
            ("timeout", "5"),
            ("multicast", ""),
        ]);
        let accepted = [("tsize", 1234), ("blksize", 1468), ("windowsize", 32), ("timeout", 5)];
        assert_eq!(terms.accepted, accepted);
        assert_eq!((terms.block, terms.window), (1468, 32));
        assert_eq!(terms.timeout, Some(Duration::from_secs(5)));
    }

    #[test]
    fn of_two_values_the_first_is_told_and_used() {
        let terms =
            agree(&[("blksize", "1024"), ("blksize", "512"), ("timeout", "x"), ("timeout", "3")]);
        assert_eq!(terms.accepted, [("blksize", 1024), ("timeout", 3)]);
        assert_eq!((terms.block, terms.timeout), (1024, Some(Duration::from_secs(3))));
    }

    #[test]
    fn values_that_the_rfcs_forbid_are_left_out() {
        let bad = [("blksize", "4"), ("blksize", "x"), ("windowsize", "0"), ("timeout", "256")];
        let terms = agree(&bad);
        assert_eq!(terms.accepted, []);
        assert_eq!((terms.block, terms.window, terms.timeout), (512, 1, None));
    }
}
