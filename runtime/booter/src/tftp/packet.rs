//! TFTP's packets (RFC 1350, options RFC 2347).

use std::fmt;

/// Longest file name that is looked at.
const NAME_LIMIT: usize = 128;
/// Most options that are looked at; all clients together know six.
const OPTION_LIMIT: usize = 16;
/// Bytes of a DATA packet before the content.
pub const DATA_HEAD: usize = 4;
/// Most bytes of an ACK or ERROR that are looked at.
pub const ANSWER_LIMIT: usize = 516;

/// Why bytes are no packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed TFTP packet: {0}")]
pub struct Malformed(&'static str);

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Please send a file.
    Read(ReadRequest),
    /// Please take a file.
    Write,
    /// All blocks up to this one have arrived.
    Ack(u16),
    /// The client gives up.
    Error {
        /// RFC 1350's code.
        code: u16,
        /// For people; control characters removed.
        message: String,
    },
}

/// A request for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest {
    /// The file's name as sent.
    pub name: String,
    /// `octet` or another mode, in lower case.
    pub mode: String,
    /// Options, names in lower case, in the client's order.
    pub options: Vec<(String, String)>,
}

/// Error codes of RFC 1350 and 2347.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Code {
    /// See the message.
    Undefined = 0,
    /// No such file.
    NotFound = 1,
    /// Not allowed.
    Access = 2,
    /// Not an operation of this server.
    Illegal = 4,
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (code, rest) = number(bytes).ok_or(Malformed("shorter than an operation code"))?;
        match code {
            1 => read_request(rest).map(Self::Read),
            2 => Ok(Self::Write),
            4 => {
                let (block, _) = number(rest).ok_or(Malformed("ACK without a block number"))?;
                Ok(Self::Ack(block))
            }
            5 => {
                let (code, rest) = number(rest).ok_or(Malformed("ERROR without a code"))?;
                let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                let text = String::from_utf8_lossy(text.get(..NAME_LIMIT).unwrap_or(text));
                let message = text.chars().filter(|c| !c.is_control()).collect();
                Ok(Self::Error { code, message })
            }
            _ => Err(Malformed("unknown operation code")),
        }
    }
}

fn read_request(bytes: &[u8]) -> Result<ReadRequest, Malformed> {
    // Some ROMs pad the packet after the last NUL, so what follows the last pair is let go.
    let mut texts = bytes.split_inclusive(|byte| *byte == 0).map(|text| {
        let text = text.strip_suffix(&[0]).ok_or(Malformed("a text does not end in NUL"))?;
        std::str::from_utf8(text).map_err(|_| Malformed("a text is not ASCII"))
    });
    let name = texts.next().ok_or(Malformed("no file name"))??;
    if name.len() > NAME_LIMIT {
        return Err(Malformed("the file name is too long"));
    }
    let mode = texts.next().ok_or(Malformed("no mode"))??;
    let mut options = Vec::new();
    while let (Some(Ok(key)), Some(Ok(value))) = (texts.next(), texts.next()) {
        if key.is_empty() {
            continue;
        }
        if options.len() == OPTION_LIMIT {
            return Err(Malformed("too many options"));
        }
        options.push((key.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(ReadRequest { name: name.to_owned(), mode: mode.to_ascii_lowercase(), options })
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// What a DATA packet begins with; `block` is counted from 1 and rolls over after 65535.
pub fn data_head(block: usize) -> [u8; DATA_HEAD] {
    let [high, low] = ((block & 0xffff) as u16).to_be_bytes();
    [0, 3, high, low]
}

/// The bytes of an ERROR packet.
pub fn error(code: Code, message: &str) -> Vec<u8> {
    let mut bytes = vec![0, 5];
    bytes.extend((code as u16).to_be_bytes());
    bytes.extend(message.bytes());
    bytes.push(0);
    bytes
}

/// The bytes of an OACK packet.
pub fn oack(options: &[(&'static str, u64)]) -> Vec<u8> {
    let mut bytes = vec![0, 6];
    for (name, value) in options {
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.extend(value.to_string().bytes());
        bytes.push(0);
    }
    bytes
}

impl fmt::Display for ReadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?}", self.name, self.mode)?;
        self.options.iter().try_for_each(|(name, value)| write!(f, " {name:?}={value:?}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_request_with_options_is_read() {
        let packet = Packet::parse(b"\0\x01a.kpxe\0OCTET\0blksize\x001432\0TSIZE\x000\0\0\0\0\0");
        let Ok(Packet::Read(request)) = packet else { panic!("{packet:?}") };
        assert_eq!((request.name.as_str(), request.mode.as_str()), ("a.kpxe", "octet"));
        let option = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(request.options, [option("blksize", "1432"), option("tsize", "0")]);
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for bytes in
            [&b""[..], b"\0", b"\0\x01", b"\0\x01a", b"\0\x01a\0oct", b"\0\x04\0", b"\0\x09"]
        {
            assert!(Packet::parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn an_error_is_read() {
        let error = Packet::Error { code: 8, message: "User aborted".to_owned() };
        assert_eq!(Packet::parse(b"\0\x05\0\x08User aborted\0"), Ok(error));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            name in "[ -~]{1,128}",
            mode in "[a-z]{1,9}",
            options in prop::collection::vec(("[a-z0-9]{1,9}", "[ -~]{0,9}"), 0..=16),
            padding in 0..5_usize,
        ) {
            let mut bytes = vec![0, 1];
            let all = options.iter().flat_map(|(name, value)| [name, value]);
            for text in [&name, &mode].into_iter().chain(all) {
                bytes.extend(text.bytes());
                bytes.push(0);
            }
            bytes.resize(bytes.len() + padding, 0);
            let request = ReadRequest { name, mode, options };
            prop_assert_eq!(Packet::parse(&bytes), Ok(Packet::Read(request)));
        }

        #[test]
        fn what_is_read_is_bounded(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let bytes = [&[0, 1][..], &bytes].concat();
            if let Ok(Packet::Read(request)) = Packet::parse(&bytes) {
                prop_assert!(request.name.len() <= NAME_LIMIT);
                prop_assert!(request.options.len() <= OPTION_LIMIT);
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), code in 0u8..7) {
            drop(Packet::parse(&bytes));
            bytes.splice(0..0, [0, code]);
            drop(Packet::parse(&bytes));
        }
    }
}
