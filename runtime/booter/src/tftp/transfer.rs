//! One transfer: one file to one client.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::channel::{Channel, Told};
use super::options::Terms;
use super::packet;
use super::rto::Rto;
use super::settings::Settings;
use super::table::Ticket;
use crate::live::Live;

/// How long a client may be silent: a ROM that starts a NIC can be for seconds. One that has asked
/// for long waits between repetitions gets six of them, within limits.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(600));

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
    /// Whether the client has answered at all; its address may be forged otherwise.
    pub confirmed: bool,
    /// Bytes of the file that the client has acknowledged.
    pub bytes: usize,
    /// How often something had to be sent again.
    pub resent: u32,
}

/// A transfer that runs.
pub struct Transfer<'a> {
    channel: Channel,
    content: &'a [u8],
    terms: &'a Terms,
    ticket: &'a Ticket,
    settings: &'a Live<Settings>,
    rto: Rto,
    /// How long the client may be silent.
    patience: Duration,
    /// Set anew seldom: an answer comes thousands of times before a wait is over.
    timer: Pin<Box<Sleep>>,
    confirmed: bool,
    resent: u32,
}

enum Answer {
    Ack(u16),
    /// The client has repeated its request: it may not have got the first packet.
    Again,
    Late,
    Over(Ending),
}

impl<'a> Transfer<'a> {
    /// A transfer of `content` to the client at the other end of `channel`.
    pub fn new(
        channel: Channel,
        content: &'a [u8],
        terms: &'a Terms,
        ticket: &'a Ticket,
        settings: &'a Live<Settings>,
    ) -> Self {
        let (least, most) = PATIENCE;
        let patience = terms.timeout.map_or(least, |wait| (wait * 6).clamp(least, most));
        let timer = Box::pin(sleep_until(Instant::now() + patience));
        let rto = Rto::new(terms.timeout);
        let (confirmed, resent) = (false, 0);
        Self { channel, content, terms, ticket, settings, rto, patience, timer, confirmed, resent }
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
        Report { ending, confirmed: self.confirmed, bytes, resent: self.resent }
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
        // Until it has answered, a client gets one packet per request: its address may be forged.
        // A real one asks again.
        let options = packet::oack(&self.terms.accepted);
        self.channel.send(&options).await?;
        let mut sent = Instant::now();
        loop {
            match self.answer(sent + self.patience()).await? {
                Answer::Ack(0) => {
                    if self.resent == 0 {
                        self.rto.measure(sent.elapsed());
                    }
                    self.confirm();
                    self.channel.quiet();
                    return Ok(None);
                }
                Answer::Ack(_) => {}
                Answer::Again => {
                    self.resent += 1;
                    self.channel.send(&options).await?;
                    sent = Instant::now();
                }
                Answer::Late => return Ok(Some(Ending::Silent)),
                Answer::Over(Ending::Aborted { .. }) => {
                    // It is there, and does not want this transfer: the one before may be the one it
                    // wants (RFC 1350 §4: a late copy of its request began this one).
                    self.confirmed = true;
                    return Ok(Some(Ending::Probe));
                }
                Answer::Over(ending) => return Ok(Some(ending)),
            }
        }
    }

    /// Sends the blocks after `done` up to `last` until at least one of them is acknowledged; says
    /// how many are.
    async fn window(&mut self, done: usize, last: usize) -> io::Result<Result<usize, Ending>> {
        let mut sent = self.send_blocks(done, last).await?;
        let mut give_up = sent + self.patience();
        // Whether nothing was sent twice, and whether there is a hint that the first block was lost.
        let (mut once, mut hint) = (true, false);
        loop {
            let next = match self.confirmed {
                // As with the options: one packet until the client has answered.
                false => give_up,
                true if hint => sent + self.rto.wait().min(self.rto.soon()),
                true => sent + self.rto.wait(),
            };
            match self.answer(next.min(give_up)).await? {
                Answer::Ack(block) => {
                    // Block numbers roll over after 65535.
                    let ahead = usize::from(block.wrapping_sub(low_16(done)));
                    if (1..=last - done).contains(&ahead) {
                        if once {
                            self.rto.measure(sent.elapsed());
                        }
                        self.confirm();
                        if ahead == last - done {
                            self.channel.quiet();
                        }
                        return Ok(Ok(ahead));
                    }
                    // An acknowledgement of the block before the window may tell that the window's
                    // first block was lost, or be a repetition, or meant for what followed a loss
                    // in the window before. Answering it at once would double the traffic for ever
                    // (RFC 1123 §4.2.3.1), so what was sent gets the time to be answered first.
                    // With single blocks it tells nothing.
                    hint |= ahead == 0 && self.terms.window > 1;
                    continue;
                }
                Answer::Again => {}
                Answer::Late if Instant::now() >= give_up => return Ok(Err(Ending::Silent)),
                // Not the client's fault: the next wait need not be longer.
                Answer::Late if hint => {}
                Answer::Late => self.rto.in_vain(),
                Answer::Over(ending) => return Ok(Err(ending)),
            }
            (once, hint) = (false, false);
            self.resent += 1;
            sent = self.send_blocks(done, last).await?;
            if !self.confirmed {
                // It has just asked again.
                give_up = sent + self.patience();
            }
        }
    }

    /// How long the client may be silent. Before its first answer its address may be forged, and then it
    /// must not hold a place, and a file in memory, for as long as it likes.
    fn patience(&self) -> Duration {
        if self.confirmed { self.patience } else { PATIENCE.0 }
    }

    fn confirm(&mut self) {
        if !self.confirmed {
            self.confirmed = true;
            self.ticket.confirmed();
        }
    }

    /// Sends blocks as fast as the client's address may be served; tells when.
    async fn send_blocks(&mut self, done: usize, last: usize) -> io::Result<Instant> {
        let size = self.terms.block;
        let rate = self.settings.get().bytes_per_second_per_client;
        // What is sent to an address that has not answered yet, and may be forged, is not its debt.
        if rate > 0 && self.confirmed {
            let now = Instant::now();
            let start = self.ticket.pace.reserve((last - done) * size, rate, now);
            if start > now {
                tokio::time::sleep_until(start).await;
            }
        }
        self.channel.blocks(self.content, size, done..last).await?;
        Ok(Instant::now())
    }

    async fn answer(&mut self, until: Instant) -> io::Result<Answer> {
        loop {
            if self.timer.deadline() > until {
                self.timer.as_mut().reset(until);
            }
            let told = tokio::select! {
                biased;
                told = self.channel.receive() => told.map(Some),
                () = self.ticket.again.notified(), if !self.confirmed => return Ok(Answer::Again),
                () = self.timer.as_mut() => {
                    if Instant::now() < until {
                        self.timer.as_mut().reset(until);
                        continue;
                    }
                    self.channel.left_over()
                }
            };
            return match told {
                Ok(Some(Told::Ack(block))) => Ok(Answer::Ack(block)),
                Ok(Some(Told::Error { code, message })) => {
                    Ok(Answer::Over(Ending::Aborted { code, message }))
                }
                Ok(None) => Ok(Answer::Late),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    Ok(Answer::Over(Ending::Gone))
                }
                Err(error) => Err(error),
            };
        }
    }
}

/// The number of a block on the wire.
fn low_16(block: usize) -> u16 {
    (block & 0xffff) as u16
}
