//! One transfer: one file to one client, over a socket of its own.

use std::io;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::options::Terms;
use super::packet::{self, Packet};

/// How long to wait before something is sent again, when the client has not chosen: short at
/// first, since a lost packet must not stall a boot, and long at the end, since a ROM that starts
/// a NIC can be silent for seconds. Together 23.5 s.
const WAITS: [Duration; 6] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(8),
];

/// How a transfer ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// The client has all.
    Complete,
    /// The client only wanted to know the size, or does not like the terms: it said so by an error
    /// right after the options, as EDK II does.
    Probe,
    /// The client gave up.
    Aborted {
        /// RFC 1350's code.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The client no longer answers.
    Silent,
    /// The client's port is closed: it has restarted.
    Gone,
}

/// What a transfer has done.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// Bytes of the file that the client has acknowledged.
    pub bytes: usize,
    /// How often something had to be sent again.
    pub resent: u32,
}

/// A transfer that runs.
pub struct Transfer<'a> {
    /// Connected to the client.
    socket: &'a UdpSocket,
    content: &'a [u8],
    terms: &'a Terms,
    resent: u32,
    packet: Vec<u8>,
}

enum Answer {
    Ack(u16),
    Late,
    Over(Ending),
}

impl<'a> Transfer<'a> {
    /// A transfer of `content` over a socket that is connected to the client.
    pub fn new(socket: &'a UdpSocket, content: &'a [u8], terms: &'a Terms) -> Self {
        Self { socket, content, terms, resent: 0, packet: Vec::with_capacity(terms.block + 4) }
    }

    /// Sends everything.
    pub async fn run(mut self) -> Report {
        let mut done = 0;
        let ending = match self.send_all(&mut done).await {
            Ok(ending) => ending,
            Err(error) => {
                tracing::debug!("TFTP socket: {error}");
                Ending::Gone
            }
        };
        let bytes = done.saturating_mul(self.terms.block).min(self.content.len());
        Report { ending, bytes, resent: self.resent }
    }

    async fn send_all(&mut self, done: &mut usize) -> io::Result<Ending> {
        if !self.terms.accepted.is_empty()
            && let Some(ending) = self.agree().await?
        {
            return Ok(ending);
        }
        // The last block is shorter than the others, and empty when the size is a multiple.
        let blocks = self.content.len() / self.terms.block + 1;
        while *done < blocks {
            let last = blocks.min(*done + self.terms.window);
            match self.window(*done, last).await? {
                Ok(acknowledged) => *done += acknowledged,
                Err(ending) => return Ok(ending),
            }
        }
        Ok(Ending::Complete)
    }

    /// Sends the options and waits until they are acknowledged.
    async fn agree(&mut self) -> io::Result<Option<Ending>> {
        let oack = packet::oack(&self.terms.accepted);
        for attempt in 0..WAITS.len() {
            // Until it has answered, a client gets one packet per request: its address may be forged.
            // A real one asks again, and that is a new transfer.
            if attempt == 0 {
                self.socket.send(&oack).await?;
            }
            let until = Instant::now() + self.wait(attempt);
            loop {
                match self.answer(until).await? {
                    Answer::Ack(0) => return Ok(None),
                    Answer::Ack(_) => {}
                    Answer::Late => break,
                    Answer::Over(Ending::Aborted { .. }) => return Ok(Some(Ending::Probe)),
                    Answer::Over(ending) => return Ok(Some(ending)),
                }
            }
        }
        Ok(Some(Ending::Silent))
    }

    /// Sends the blocks after `done` up to `last` until at least one of them is acknowledged; says
    /// how many are.
    async fn window(&mut self, done: usize, last: usize) -> io::Result<Result<usize, Ending>> {
        for attempt in 0..WAITS.len() {
            // As with the options: one packet until the client has answered.
            if attempt == 0 || done > 0 || !self.terms.accepted.is_empty() {
                self.resent += u32::from(attempt > 0);
                self.send_blocks(done, last).await?;
            }
            let until = Instant::now() + self.wait(attempt);
            let mut repeated = false;
            loop {
                match self.answer(until).await? {
                    Answer::Ack(block) => {
                        // Block numbers roll over after 65535.
                        let ahead = usize::from(block.wrapping_sub(low_16(done)));
                        if (1..=last - done).contains(&ahead) {
                            return Ok(Ok(ahead));
                        }
                        // An acknowledgement of the block before the window tells that the
                        // window's first block was lost. Once is enough: answering each repeated
                        // one would double the traffic for ever (RFC 1123 §4.2.3.1), and with
                        // single blocks it is never needed.
                        if ahead == 0 && self.terms.window > 1 && !repeated {
                            repeated = true;
                            self.resent += 1;
                            self.send_blocks(done, last).await?;
                        }
                    }
                    Answer::Late => break,
                    Answer::Over(ending) => return Ok(Err(ending)),
                }
            }
        }
        Ok(Err(Ending::Silent))
    }

    async fn send_blocks(&mut self, done: usize, last: usize) -> io::Result<()> {
        let size = self.terms.block;
        for index in done..last {
            let rest = self.content.get(index * size..).unwrap_or_default();
            let content = rest.get(..size).unwrap_or(rest);
            packet::data(&mut self.packet, low_16(index + 1), content);
            self.socket.send(&self.packet).await?;
        }
        Ok(())
    }

    async fn answer(&self, until: Instant) -> io::Result<Answer> {
        let mut buffer = [0; 516];
        loop {
            let length = match timeout_at(until, self.socket.recv(&mut buffer)).await {
                Err(_) => return Ok(Answer::Late),
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Ok(Answer::Over(Ending::Gone));
                }
                Ok(length) => length?,
            };
            match Packet::parse(buffer.get(..length).unwrap_or_default()) {
                Ok(Packet::Ack(block)) => return Ok(Answer::Ack(block)),
                Ok(Packet::Error { code, message }) => {
                    return Ok(Answer::Over(Ending::Aborted { code, message }));
                }
                // Noise; wait on.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn wait(&self, attempt: usize) -> Duration {
        let ours = WAITS.get(attempt).copied().unwrap_or(Duration::from_secs(8));
        self.terms.timeout.unwrap_or(ours)
    }
}

/// The number of a block on the wire.
fn low_16(block: usize) -> u16 {
    (block & 0xffff) as u16
}
