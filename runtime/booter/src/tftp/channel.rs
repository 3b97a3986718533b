//! The way to one client: a socket of its own, or its share of the server's.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, recv, sendmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::options::WINDOW_MAX;
use super::packet::{self, Packet};

/// Most blocks in one send.
const BLOCKS: usize = WINDOW_MAX as usize;

/// What a client says in the course of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// All blocks up to this one have arrived.
    Ack(u16),
    /// It gives up.
    Error {
        /// RFC 1350's code.
        code: u16,
        /// Its words.
        message: String,
    },
}

impl Told {
    fn parse(bytes: &[u8]) -> Option<Self> {
        match Packet::parse(bytes) {
            Ok(Packet::Ack(block)) => Some(Self::Ack(block)),
            Ok(Packet::Error { code, message }) => Some(Self::Error { code, message }),
            // Noise.
            Ok(Packet::Read(_) | Packet::Write) | Err(_) => None,
        }
    }
}

/// What the server's reader hands over; behind a client's back it is as lossy as the network.
pub type Inbox = mpsc::Receiver<Told>;

/// The way to one client and back.
#[derive(Debug)]
pub struct Channel {
    socket: Arc<UdpSocket>,
    /// In single port mode: the client, and what it says.
    shared: Option<(SockaddrStorage, Inbox)>,
    /// Whether the kernel cuts a window into packets (UDP GSO, Linux 4.18): one system call.
    segments: bool,
}

impl Channel {
    /// Over a socket that is connected to the client.
    pub fn own(socket: UdpSocket) -> Self {
        Self { socket: Arc::new(socket), shared: None, segments: true }
    }

    /// Over the server's socket.
    pub fn shared(socket: Arc<UdpSocket>, client: SocketAddr, inbox: Inbox) -> Self {
        Self { socket, shared: Some((client.into(), inbox)), segments: true }
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// What the operating system says, that nobody listens there too.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_parts(&[IoSlice::new(bytes)], None).await
    }

    /// Sends the blocks `range` (counted from 0), at most [`WINDOW_MAX`], each of `size` bytes but
    /// the file's last. `content` is the file's from the first of them on.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub async fn blocks(
        &mut self,
        content: &[u8],
        size: usize,
        range: Range<usize>,
    ) -> io::Result<()> {
        // The most usual case, without room for a window.
        if range.len() == 1 {
            let head = packet::data_head(range.start + 1);
            let block = content.get(..size).unwrap_or(content);
            return self.send_parts(&[IoSlice::new(&head), IoSlice::new(block)], None).await;
        }
        let mut heads = [[0; packet::DATA_HEAD]; BLOCKS];
        let mut parts = [IoSlice::new(&[]); BLOCKS * 2];
        let (count, mut content) = (range.len().min(BLOCKS), content);
        for ((index, head), pair) in range.zip(&mut heads).zip(parts.chunks_exact_mut(2)) {
            *head = packet::data_head(index + 1);
            let (block, rest) = content.split_at_checked(size).unwrap_or((content, &[]));
            content = rest;
            if let [first, second] = pair {
                *first = IoSlice::new(head);
                *second = IoSlice::new(block);
            }
        }
        let parts = parts.get(..count * 2).unwrap_or_default();
        if self.segments && count > 1 {
            let segment = u16::try_from(size + packet::DATA_HEAD).unwrap_or(u16::MAX);
            match self.send_parts(parts, Some(segment)).await {
                Err(error) if cannot_cut(&error) => self.segments = false,
                sent => return sent,
            }
        }
        for one in parts.chunks_exact(2) {
            self.send_parts(one, None).await?;
        }
        Ok(())
    }

    async fn send_parts(&self, parts: &[IoSlice<'_>], segment: Option<u16>) -> io::Result<()> {
        let sent = match self.try_send(parts, segment) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.async_io(Interest::WRITABLE, || self.try_send(parts, segment)).await
            }
            sent => sent,
        };
        match sent {
            // A queue on the way is full: as good as lost on the network.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            sent => sent,
        }
    }

    fn try_send(&self, parts: &[IoSlice<'_>], segment: Option<u16>) -> io::Result<()> {
        let segment = segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let to = self.shared.as_ref().map(|(client, _)| client);
        let flags = MsgFlags::MSG_DONTWAIT;
        sendmsg(self.socket.as_raw_fd(), parts, segment.as_slice(), flags, to)?;
        Ok(())
    }

    /// Waits for what the client says. May be dropped and called again.
    ///
    /// # Errors
    /// What the operating system says, that nobody listens there too.
    pub async fn receive(&mut self) -> io::Result<Told> {
        if let Some((_, inbox)) = &mut self.shared {
            return inbox.recv().await.ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        }
        let mut buffer = [0; packet::ANSWER_LIMIT];
        loop {
            let length = self.socket.recv(&mut buffer).await?;
            if let Some(told) = Told::parse(buffer.get(..length).unwrap_or_default()) {
                return Ok(told);
            }
        }
    }

    /// Looks for what the client says, without pause for at most so long.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn look_out(&self, most: Duration) -> io::Result<Option<Told>> {
        let begun = Instant::now();
        while self.shared.is_none() {
            if let Some(told) = self.left_over()? {
                return Ok(Some(told));
            }
            if begun.elapsed() >= most {
                break;
            }
        }
        Ok(None)
    }

    /// What has come and was not looked at because of [`Channel::quiet`].
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn left_over(&self) -> io::Result<Option<Told>> {
        let mut buffer = [0; packet::ANSWER_LIMIT];
        while self.shared.is_none() {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
                Ok(length) => {
                    if let Some(told) = Told::parse(buffer.get(..length).unwrap_or_default()) {
                        return Ok(Some(told));
                    }
                }
            }
        }
        Ok(None)
    }

    /// To be called when the client has answered all that was sent and before more is sent. What is
    /// in the socket now can only be a repetition, so the next [`Channel::receive`] need not ask
    /// the kernel in vain before it waits: one of three system calls per block.
    pub fn quiet(&self) {
        if self.shared.is_none() {
            let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            // It always says that it would block.
            self.socket.try_io(Interest::READABLE, nothing).ok();
        }
    }
}

/// Whether a window has to be sent packet by packet: an old kernel, a NIC or a path that does not
/// take part.
fn cannot_cut(error: &io::Error) -> bool {
    let known = [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
    error.raw_os_error().is_some_and(|code| known.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_window_arrives_as_packets_with_and_without_the_kernels_help() {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(client.local_addr().unwrap()).await.unwrap();
        let mut channel = Channel::own(socket);
        let content: Vec<u8> = (0..1000).map(|n| (n % 251) as u8).collect();
        for segments in [true, false] {
            channel.segments = segments;
            // 9 blocks of 100 and one of none: 8 to the end.
            channel.blocks(&content[750..], 125, 6..9).await.unwrap();
            let mut buffer = [0; 2048];
            for (block, bytes) in [(7, &content[750..875]), (8, &content[875..]), (9, &[])] {
                let length = client.recv(&mut buffer).await.unwrap();
                assert_eq!(buffer[..4], [0, 3, 0, block]);
                assert_eq!(buffer[4..length], *bytes);
            }
        }
    }

    #[tokio::test]
    async fn what_comes_after_the_channel_is_quiet_is_heard() {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(client.local_addr().unwrap()).await.unwrap();
        let server = socket.local_addr().unwrap();
        let mut channel = Channel::own(socket);
        for block in 0..100 {
            client.send_to(&[0, 4, 0, block], server).await.unwrap();
            assert_eq!(channel.receive().await.unwrap(), Told::Ack(block.into()));
            channel.quiet();
        }
        client.send_to(&[0, 4, 0, 7], server).await.unwrap();
        channel.quiet();
        assert_eq!(channel.left_over().unwrap(), Some(Told::Ack(7)));
        assert_eq!(channel.left_over().unwrap(), None);
    }
}
