//! One transfer: one file to one client.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::channel::{Channel, Told};
use super::large::{Broken, Reader};
use super::options::Terms;
use super::packet::{self, Code};
use super::rto::Rto;
use super::settings::Settings;
use super::table::Ticket;
use crate::live::Live;

/// How long a client may be silent: a ROM that starts a NIC can be for seconds. One that has asked
/// for long waits between repetitions gets six of them, within limits.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(600));
/// Answers that are looked out for before others have their turn: a turn costs half as much as a packet.
/// With the longest round trips that are looked out for, others wait 1 ms.
const TURN: u8 = 16;

/// How a transfer ended.
#[derive(Debug)]
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
    /// The file could not be read to its end; the client was told.
    Broken(Broken),
}

/// What a transfer sends.
#[derive(Debug)]
pub enum Source<'a> {
    /// All of it is in memory.
    Memory(&'a [u8]),
    /// It is read piece by piece.
    File(Reader),
}

impl Source<'_> {
    /// Bytes of all.
    pub fn size(&self) -> usize {
        match self {
            Self::Memory(all) => all.len(),
            Self::File(reader) => reader.size(),
        }
    }
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
    source: Source<'a>,
    size: usize,
    terms: &'a Terms,
    ticket: &'a Ticket,
    settings: &'a Live<Settings>,
    rto: Rto,
    /// How long the client may be silent.
    patience: Duration,
    /// Set anew seldom: an answer comes thousands of times before a wait is over.
    timer: Pin<Box<Sleep>>,
    /// Answers that were looked out for since others had their turn.
    turn: u8,
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
    /// A transfer of `source` to the client at the other end of `channel`.
    pub fn new(
        channel: Channel,
        source: Source<'a>,
        terms: &'a Terms,
        ticket: &'a Ticket,
        settings: &'a Live<Settings>,
    ) -> Self {
        let (least, most) = PATIENCE;
        let patience = terms.timeout.map_or(least, |wait| (wait * 6).clamp(least, most));
        let timer = Box::pin(sleep_until(Instant::now() + patience));
        let rto = Rto::new(terms.timeout);
        let (size, confirmed, resent) = (source.size(), false, 0);
        Self {
            channel,
            source,
            size,
            terms,
            ticket,
            settings,
            rto,
            patience,
            timer,
            turn: 0,
            confirmed,
            resent,
        }
    }

    /// Sends everything.
    pub async fn run(mut self) -> Report {
        let mut done = 0;
        let ending = self.send_all(&mut done).await.err().unwrap_or(Ending::Complete);
        if let Ending::Broken(broken) = &ending {
            let text = match broken {
                Broken::Changed => "the file has changed",
                Broken::Io(_) => "the file cannot be read",
            };
            if let Err(error) = self.channel.send(&packet::error(Code::Undefined, text)).await {
                tracing::debug!("sending a TFTP error: {error}");
            }
        }
        let bytes = done.saturating_mul(self.terms.block).min(self.size);
        Report { ending, confirmed: self.confirmed, bytes, resent: self.resent }
    }

    async fn send_all(&mut self, done: &mut usize) -> Result<(), Ending> {
        if !self.terms.accepted.is_empty() {
            self.agree().await?;
        }
        // The last block is shorter than the others, and empty when the size is a multiple.
        let blocks = self.size / self.terms.block + 1;
        while *done < blocks {
            let last = blocks.min(*done + self.terms.window);
            *done += self.window(*done, last).await?;
        }
        Ok(())
    }

    /// Sends the options and waits until they are acknowledged.
    async fn agree(&mut self) -> Result<(), Ending> {
        // Until it has answered, a client gets one packet per request: its address may be forged.
        // A real one asks again.
        let options = packet::oack(&self.terms.accepted);
        self.channel.send(&options).await.map_err(gone)?;
        let mut sent = Instant::now();
        loop {
            match self.answer(sent + self.patience()).await? {
                Answer::Ack(0) => {
                    if self.resent == 0 {
                        self.rto.measure(sent.elapsed());
                    }
                    self.confirm();
                    self.channel.quiet();
                    return Ok(());
                }
                Answer::Ack(_) => {}
                Answer::Again => {
                    self.resent += 1;
                    self.channel.send(&options).await.map_err(gone)?;
                    sent = Instant::now();
                }
                Answer::Late => return Err(Ending::Silent),
                Answer::Over(Ending::Aborted { .. }) => {
                    // It is there, and does not want this transfer: the one before may be the one it
                    // wants (RFC 1350 §4: a late copy of its request began this one).
                    self.confirmed = true;
                    return Err(Ending::Probe);
                }
                Answer::Over(ending) => return Err(ending),
            }
        }
    }

    /// Sends the blocks after `done` up to `last` until at least one of them is acknowledged; says
    /// how many are.
    async fn window(&mut self, done: usize, last: usize) -> Result<usize, Ending> {
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
                        return Ok(ahead);
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
                Answer::Late if Instant::now() >= give_up => return Err(Ending::Silent),
                // Not the client's fault: the next wait need not be longer.
                Answer::Late if hint => {}
                Answer::Late => self.rto.in_vain(),
                Answer::Over(ending) => return Err(ending),
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
    async fn send_blocks(&mut self, done: usize, last: usize) -> Result<Instant, Ending> {
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
        let (from, to) = (done * size, last * size);
        let content = match &mut self.source {
            Source::Memory(all) => all.get(from..).unwrap_or_default(),
            Source::File(reader) => {
                reader.part(from, to, self.confirmed).await.map_err(Ending::Broken)?
            }
        };
        self.channel.blocks(content, size, done..last).await.map_err(gone)?;
        Ok(Instant::now())
    }

    async fn answer(&mut self, until: Instant) -> Result<Answer, Ending> {
        if let Some(soon) = self.rto.imminent()
            && let Some(told) = self.channel.look_out(soon).map_err(gone)?
        {
            self.turn += 1;
            if self.turn == TURN {
                self.turn = 0;
                tokio::task::yield_now().await;
            }
            return Ok(answer_of(told));
        }
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
                Ok(Some(told)) => Ok(answer_of(told)),
                Ok(None) => Ok(Answer::Late),
                Err(error) => Err(gone(error)),
            };
        }
    }
}

fn answer_of(told: Told) -> Answer {
    match told {
        Told::Ack(block) => Answer::Ack(block),
        Told::Error { code, message } => Answer::Over(Ending::Aborted { code, message }),
    }
}

/// Nobody listens there any more, or nothing can be sent.
fn gone(error: io::Error) -> Ending {
    tracing::debug!("TFTP socket: {error}");
    Ending::Gone
}

/// The number of a block on the wire.
fn low_16(block: usize) -> u16 {
    (block & 0xffff) as u16
}
