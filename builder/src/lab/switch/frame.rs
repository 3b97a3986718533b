//! QEMU's stream framing (a 4-byte big-endian length, then an Ethernet frame) and the little that
//! the switch reads of a frame: who sends, who shall receive, and which address the sender has.

use std::net::Ipv4Addr;

/// The largest frame that QEMU sends over a stream socket: `NET_BUFSIZE` in its `include/net/net.h`
/// (4096 + 65536). A longer length means that the peer does not speak this protocol.
pub const MAX_FRAME: usize = 4096 + 65536;

/// The shortest frame that has both addresses and a type. QEMU does not pad to Ethernet's 60.
pub const MIN_FRAME: usize = 14;

/// A machine's Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether a frame to this address goes to everybody (broadcast) or to a group (multicast).
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What the peer of a port sent that is no frame stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {length} bytes is announced, more than the {MAX_FRAME} that QEMU can send")]
pub struct HostileLength {
    /// The announced length.
    pub length: u32,
}

/// Splits a byte stream, which comes in pieces of any size, into frames.
///
/// It holds at most one unfinished frame beyond what was pushed last, so a peer cannot make it grow.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// Adds bytes as they came from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`HostileLength`]; the stream cannot be read any further, close it.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, HostileLength> {
        let rest = &self.buffer[self.start..];
        let Some((head, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head);
        let size = usize::try_from(length).unwrap_or(usize::MAX);
        if size > MAX_FRAME {
            return Err(HostileLength { length });
        }
        if body.len() < size {
            return Ok(None);
        }
        let from = self.start + 4;
        self.start = from + size;
        Ok(Some(&self.buffer[from..from + size]))
    }

    /// How many bytes wait for the rest of their frame.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// Source and destination of a frame; `None` when it is shorter than [`MIN_FRAME`].
pub fn addresses(frame: &[u8]) -> Option<(Mac, Mac)> {
    if frame.len() < MIN_FRAME {
        return None;
    }
    let (destination, rest) = frame.split_first_chunk::<6>()?;
    let (source, _) = rest.split_first_chunk::<6>()?;
    Some((Mac(*source), Mac(*destination)))
}

/// The IPv4 address that the sender of this frame claims to have: the sender of an ARP packet or the
/// source of an IPv4 packet. `None` for anything else, and for addresses that no machine has.
pub fn sender_ip(frame: &[u8]) -> Option<Ipv4Addr> {
    let kind = frame.get(12..14)?;
    let bytes: [u8; 4] = match kind {
        // ARP over Ethernet for IPv4 (RFC 826): hardware 1, protocol 0x0800, lengths 6 and 4.
        [0x08, 0x06] if frame.get(14..20)? == [0, 1, 8, 0, 6, 4] => {
            frame.get(28..32)?.try_into().ok()?
        }
        [0x08, 0x00] if frame.get(14)? >> 4 == 4 => frame.get(26..30)?.try_into().ok()?,
        _ => return None,
    };
    let ip = Ipv4Addr::from(bytes);
    let nobody = ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast() || ip.is_loopback();
    (!nobody).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            out.extend_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
            out.extend_from_slice(frame);
        }
        out
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_held_for_it() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
        assert_eq!(decoder.next_frame().unwrap_err(), HostileLength { length: u32::MAX });
        let mut decoder = Decoder::default();
        decoder.push(&u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes());
        assert!(decoder.next_frame().is_err());
    }

    #[test]
    fn an_empty_frame_is_a_frame_but_has_no_addresses() {
        let mut decoder = Decoder::default();
        decoder.push(&[0, 0, 0, 0, 0, 0, 0, 1, 9]);
        assert_eq!(decoder.next_frame().unwrap().unwrap(), b"");
        assert_eq!(addresses(b""), None);
        assert_eq!(decoder.next_frame().unwrap().unwrap(), [9]);
        assert_eq!(decoder.next_frame().unwrap(), None);
    }

    #[test]
    fn the_sender_of_an_arp_and_of_an_ip_packet_is_read() {
        let mut arp = vec![0xff; 6];
        arp.extend_from_slice(&[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend_from_slice(&[2, 0, 0, 0, 0, 1, 10, 99, 99, 7, 0, 0, 0, 0, 0, 0, 10, 99, 99, 8]);
        assert_eq!(sender_ip(&arp), Some(Ipv4Addr::new(10, 99, 99, 7)));
        // A probe for a free address (RFC 5227) has no sender yet.
        arp[28..32].copy_from_slice(&[0, 0, 0, 0]);
        assert_eq!(sender_ip(&arp), None);
        let mut ip = vec![0u8; 34];
        ip[12] = 8;
        ip[14] = 0x45;
        ip[26..30].copy_from_slice(&[10, 0, 0, 3]);
        assert_eq!(sender_ip(&ip), Some(Ipv4Addr::new(10, 0, 0, 3)));
        assert_eq!(sender_ip(&ip[..28]), None);
    }

    proptest! {
        #[test]
        fn frames_survive_any_splitting(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..12),
            cuts in prop::collection::vec(1usize..700, 1..40),
        ) {
            let bytes = encode(&frames);
            let mut decoder = Decoder::default();
            let (mut got, mut at, mut cut) = (Vec::new(), 0, 0);
            while at < bytes.len() {
                let to = (at + cuts[cut % cuts.len()]).min(bytes.len());
                decoder.push(&bytes[at..to]);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame.to_vec());
                }
                at = to;
                cut += 1;
            }
            prop_assert_eq!(got, frames);
            prop_assert_eq!(decoder.waiting(), 0);
        }

        #[test]
        fn no_bytes_make_it_fail_or_grow(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(frame)) = decoder.next_frame() {
                let _ = addresses(frame);
                let _ = sender_ip(frame);
            }
            prop_assert!(decoder.waiting() <= bytes.len());
        }
    }
}
