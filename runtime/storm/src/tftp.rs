//! A TFTP client that reads (RFC 1350, 2347–2349, 7440) and puts up with losses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::Error;

const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;
/// Block size without the option (RFC 1350 §2).
const PLAIN: usize = 512;

/// How often a client that polls looks for a packet before others have their turn.
const LOOKS: u32 = 64;

/// How a file is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes in a block, 8 to 65464; 512 is not asked for, but taken.
    pub block: u16,
    /// Blocks between acknowledgements; 1 is not asked for, but taken.
    pub window: u16,
    /// Whether to ask for the size first and break off, as EDK II does.
    pub probe: bool,
    /// How long to wait before the last packet is sent again.
    pub wait: Duration,
    /// How often to wait for the same block before giving up.
    pub tries: u32,
    /// Whether to look for packets without pause, as firmware does, which uses no interrupts. Takes a
    /// processor of its own.
    pub poll: bool,
}

impl Default for Options {
    /// As EDK II: 6 waits of 4 seconds.
    fn default() -> Self {
        Self {
            block: 1468,
            window: 1,
            probe: true,
            wait: Duration::from_secs(4),
            tries: 6,
            poll: false,
        }
    }
}

/// A file that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Got {
    /// Its bytes.
    pub bytes: u64,
    /// Packets that were sent again.
    pub resent: u32,
}

/// Fetches a file from a server, from the address `local`, and throws it away.
///
/// # Errors
/// When the server says no, is silent for `wait` × `tries`, or breaks the protocol.
pub async fn get(
    local: Ipv4Addr,
    server: SocketAddrV4,
    name: &str,
    options: &Options,
) -> Result<Got, Error> {
    let mut resent = 0;
    let size = if options.probe {
        let (size, again) = probe(local, server, name, options).await?;
        resent += again;
        size
    } else {
        None
    };
    let got = Transfer::open(local, server, options).await?.run(name).await?;
    if let Some(size) = size.filter(|size| *size != got.bytes) {
        return Err(Error::Wrong(format!("{} bytes of {size} came", got.bytes)));
    }
    Ok(Got { resent: got.resent + resent, ..got })
}

async fn probe(
    local: Ipv4Addr,
    server: SocketAddrV4,
    name: &str,
    options: &Options,
) -> Result<(Option<u64>, u32), Error> {
    let mut transfer = Transfer::open(local, server, options).await?;
    transfer.last = request(name, options, true);
    transfer.send().await?;
    loop {
        let length = transfer.receive().await?;
        let packet = transfer.buffer.get(..length).unwrap_or_default();
        match kind(packet) {
            Some((OACK, rest)) => {
                let size = option(rest, "tsize").and_then(|size| size.parse().ok());
                transfer.last = refusal();
                transfer.send().await?;
                return Ok((size, transfer.resent));
            }
            Some((DATA, _)) => {
                // A server without options sends the file at once.
                transfer.last = refusal();
                transfer.send().await?;
                return Ok((None, transfer.resent));
            }
            Some((ERROR, rest)) => return Err(refused(rest)),
            _ => {}
        }
    }
}

struct Transfer<'a> {
    socket: UdpSocket,
    options: &'a Options,
    server: SocketAddrV4,
    /// The server's port of this transfer, once it is known; the socket is connected to it then.
    peer: Option<SocketAddr>,
    /// The packet that is sent again when nothing comes.
    last: Vec<u8>,
    /// Until when to wait, and how often that was so for this packet.
    until: Instant,
    /// Set anew seldom: packets come thousands of times before a wait is over.
    timer: Pin<Box<Sleep>>,
    waits: u32,
    resent: u32,
    buffer: Vec<u8>,
}

impl<'a> Transfer<'a> {
    async fn open(
        local: Ipv4Addr,
        server: SocketAddrV4,
        options: &'a Options,
    ) -> Result<Self, Error> {
        let socket = UdpSocket::bind((local, 0)).await;
        Ok(Self {
            socket: socket.map_err(Error::io("opening a socket for TFTP"))?,
            options,
            server,
            peer: None,
            last: Vec::new(),
            until: Instant::now(),
            timer: Box::pin(sleep_until(Instant::now() + options.wait)),
            waits: 0,
            resent: 0,
            buffer: vec![0; usize::from(options.block).max(PLAIN) + 4],
        })
    }

    /// Sends the last packet, and begins to wait for what it brings.
    async fn send(&mut self) -> Result<(), Error> {
        self.waits = 0;
        self.put().await
    }

    async fn put(&mut self) -> Result<(), Error> {
        self.until = Instant::now() + self.options.wait;
        let sent = match self.peer {
            Some(_) => self.socket.send(&self.last).await,
            None => self.socket.send_to(&self.last, self.server).await,
        };
        match sent {
            // Of an earlier packet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            sent => sent.map(drop).map_err(Error::io("sending a TFTP packet")),
        }
    }

    /// The next packet of this transfer; its length.
    async fn receive(&mut self) -> Result<usize, Error> {
        loop {
            match self.packet().await {
                Ok(Some((length, from))) => {
                    if self.peer.is_none() {
                        if from.ip() != *self.server.ip() {
                            continue;
                        }
                        self.peer = Some(from);
                        let connected = self.socket.connect(from).await;
                        connected.map_err(Error::io("connecting a socket for TFTP"))?;
                    }
                    return Ok(length);
                }
                Ok(None) => {
                    self.waits += 1;
                    if self.waits >= self.options.tries {
                        let seconds = self.options.wait.as_secs() * u64::from(self.waits);
                        return Err(Error::Silent { what: "TFTP packet", seconds });
                    }
                    self.resent += 1;
                    self.put().await?;
                }
                // The server's port is closed. Firmware does not hear of it, and waits.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(source) => return Err(Error::Io { doing: "receiving TFTP", source }),
            }
        }
    }

    /// What comes within the time to wait.
    async fn packet(&mut self) -> io::Result<Option<(usize, SocketAddr)>> {
        if let Some(from) = self.peer.filter(|_| self.options.poll) {
            while Instant::now() < self.until {
                for _ in 0..LOOKS {
                    match recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                        Err(Errno::AGAIN) => {}
                        Err(error) => return Err(error.into()),
                        Ok((length, _)) => return Ok(Some((length, from))),
                    }
                }
                tokio::task::yield_now().await;
            }
        }
        loop {
            tokio::select! {
                biased;
                got = self.socket.recv_from(&mut self.buffer) => return got.map(Some),
                () = self.timer.as_mut() => {
                    if Instant::now() >= self.until {
                        return Ok(None);
                    }
                    self.timer.as_mut().reset(self.until);
                }
            }
        }
    }

    /// To be called when all that was sent has come and before more is asked for: what is in the
    /// socket now can only be a repetition, so the kernel need not be asked in vain before the next wait.
    fn quiet(&self) {
        let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // It always says that it would block.
        self.socket.try_io(Interest::READABLE, nothing).ok();
    }

    async fn run(mut self, name: &str) -> Result<Got, Error> {
        self.last = request(name, self.options, false);
        self.send().await?;
        let (mut block, mut window) = (PLAIN, 1);
        // Blocks are counted without end here, and in 16 bits on the wire.
        let (mut done, mut acked, mut bytes) = (0_u64, 0_u64, 0_u64);
        let mut told = None;
        loop {
            let length = self.receive().await?;
            let packet = self.buffer.get(..length).unwrap_or_default();
            match kind(packet) {
                Some((OACK, rest)) if done == 0 => {
                    let number = |name| option(rest, name).and_then(|text| text.parse().ok());
                    block = number("blksize").unwrap_or(PLAIN);
                    window = number("windowsize").unwrap_or(1) as u64;
                    if block > usize::from(self.options.block) || window == 0 {
                        return Err(Error::Wrong(format!("blksize {block}, windowsize {window}")));
                    }
                    self.last = acknowledgement(0);
                    self.send().await?;
                }
                Some((DATA, rest)) => {
                    let Some((number, data)) = number(rest) else { continue };
                    if number != wire(done + 1) {
                        // A gap, or a block for the second time: told once for each place.
                        if told != Some(done) && number != wire(done) {
                            told = Some(done);
                            acked = done;
                            self.last = acknowledgement(wire(done));
                            self.send().await?;
                        }
                        continue;
                    }
                    done += 1;
                    bytes += data.len() as u64;
                    let end = data.len() < block;
                    if data.len() > block {
                        return Err(Error::Wrong(format!("a block of {} bytes", data.len())));
                    }
                    if end || done - acked >= window {
                        acked = done;
                        self.last = acknowledgement(wire(done));
                        self.quiet();
                        self.send().await?;
                    }
                    if end {
                        return Ok(Got { bytes, resent: self.resent });
                    }
                }
                Some((ERROR, rest)) => return Err(refused(rest)),
                _ => {}
            }
        }
    }
}

fn wire(block: u64) -> u16 {
    (block & 0xffff) as u16
}

fn request(name: &str, options: &Options, probe: bool) -> Vec<u8> {
    let mut packet = vec![0, 1];
    let mut add = |text: &str| {
        packet.extend(text.as_bytes());
        packet.push(0);
    };
    add(name);
    add("octet");
    if probe {
        add("tsize");
        add("0");
    }
    if usize::from(options.block) != PLAIN {
        add("blksize");
        add(&options.block.to_string());
    }
    if options.window != 1 {
        add("windowsize");
        add(&options.window.to_string());
    }
    packet
}

fn acknowledgement(block: u16) -> Vec<u8> {
    [ACK.to_be_bytes(), block.to_be_bytes()].concat()
}

/// How EDK II breaks off a request for the size.
fn refusal() -> Vec<u8> {
    [&[0, 5, 0, 8][..], b"User aborted the transfer\0"].concat()
}

fn kind(packet: &[u8]) -> Option<(u16, &[u8])> {
    number(packet)
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

fn option<'a>(bytes: &'a [u8], wanted: &str) -> Option<&'a str> {
    let mut words = bytes.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).ok());
    while let (Some(name), Some(value)) = (words.next()?, words.next()?) {
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
    }
    None
}

fn refused(rest: &[u8]) -> Error {
    let (code, text) = number(rest).unwrap_or((0, b"?"));
    let text = String::from_utf8_lossy(text);
    Error::Refused(format!("TFTP error {code} {:?}", text.trim_end_matches('\0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server that sends `blocks` blocks of 512 bytes and one of 5, in windows of `window`; every
    /// third packet that it sends is lost, as is every fifth that it gets.
    async fn lossy_server(blocks: u16, window: u16) -> SocketAddrV4 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 600];
            let (mut sent, mut heard) = (0, 0);
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                heard += 1;
                if heard % 5 == 0 {
                    continue;
                }
                let packets: Vec<Vec<u8>> = match kind(&buffer[..length]).unwrap() {
                    (1, _) if window == 1 => vec![data(1, blocks)],
                    (1, _) => {
                        vec![[&[0, 6][..], format!("windowsize\0{window}\0").as_bytes()].concat()]
                    }
                    (ACK, rest) => {
                        let (acked, _) = number(rest).unwrap();
                        let last = (acked + window).min(blocks + 1);
                        (acked + 1..=last).map(|n| data(n, blocks)).collect()
                    }
                    _ => continue,
                };
                for packet in packets {
                    sent += 1;
                    if sent % 3 != 0 {
                        socket.send_to(&packet, from).await.unwrap();
                    }
                }
            }
        });
        match address {
            SocketAddr::V4(address) => address,
            SocketAddr::V6(_) => panic!("{address}"),
        }
    }

    fn data(number: u16, blocks: u16) -> Vec<u8> {
        let length = if number == blocks + 1 { 5 } else { PLAIN };
        [&DATA.to_be_bytes()[..], &number.to_be_bytes(), &vec![7; length]].concat()
    }

    #[tokio::test]
    async fn a_file_comes_whole_over_a_lossy_network() {
        for window in [1, 4] {
            let server = lossy_server(20, window).await;
            let wait = Duration::from_millis(20);
            let options =
                Options { block: 512, window, probe: false, wait, tries: 20, poll: false };
            let got = get(Ipv4Addr::LOCALHOST, server, "x", &options).await.unwrap();
            assert_eq!(got.bytes, 20 * 512 + 5);
            assert!(got.resent > 0);
        }
    }

    #[tokio::test]
    async fn silence_and_refusals_are_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(server) = socket.local_addr().unwrap() else { panic!() };
        let wait = Duration::from_millis(10);
        let options = Options { wait, tries: 3, ..Options::default() };
        let silent = get(Ipv4Addr::LOCALHOST, server, "x", &options).await.unwrap_err();
        assert!(silent.is_silence(), "{silent}");
        let refuser = tokio::spawn(async move {
            let mut buffer = [0; 600];
            let mut count = 0;
            loop {
                let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
                count += 1;
                if count == 4 {
                    socket.send_to(b"\0\x05\0\x01no such file\0", from).await.unwrap();
                    return;
                }
            }
        });
        let options = Options { wait: Duration::from_secs(5), ..options };
        let refused = get(Ipv4Addr::LOCALHOST, server, "x", &options).await.unwrap_err();
        assert!(refused.to_string().contains("no such file"), "{refused}");
        refuser.await.unwrap();
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (kind(&bytes), option(&bytes, "tsize"), refused(&bytes).to_string());
        }
    }
}
