//! A [`Router`] with one foot in each of two switches.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Rack, Router, Side};
use crate::lab::switch::{Decoder, Port};

/// How much is read from a socket at once.
const BATCH: usize = 64 << 10;

struct Feet {
    router: Router,
    uplink: UnixStream,
    rack: UnixStream,
}

/// Connects the router to a port of the admin network's switch and to one of the rack's. It works
/// until the program ends.
///
/// # Errors
/// When no sockets can be made or no thread can be started.
pub fn connect(rack: &Rack, uplink: &Port, port: &Port) -> std::io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    uplink.attach(far)?;
    let (near_rack, far) = UnixStream::pair()?;
    port.attach(far)?;
    let streams = [(Side::Uplink, near.try_clone()?), (Side::Rack, near_rack.try_clone()?)];
    let router = Router::new(rack.clone());
    let feet = Arc::new(Mutex::new(Feet { router, uplink: near, rack: near_rack }));
    for (side, stream) in streams {
        let feet = Arc::clone(&feet);
        let work = move || {
            // A switch's port closes only with the program.
            if let Err(error) = work(side, stream, &feet) {
                tracing::error!(?side, %error, "the rack's router ends");
            }
        };
        std::thread::Builder::new().name(format!("router-{side:?}")).spawn(work)?;
    }
    Ok(())
}

fn work(side: Side, mut stream: UnixStream, feet: &Mutex<Feet>) -> std::io::Result<()> {
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; BATCH];
    let mut out = Vec::new();
    loop {
        let count = match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        decoder.push(&bytes[..count]);
        // Held while it writes, so that frames stay in order. A switch always reads, so this cannot
        // wait for the other side's thread.
        let mut feet = feet.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(frame) = decoder.next_frame().map_err(std::io::Error::other)? {
            feet.router.handle(side, frame, &mut out);
        }
        for goes_to in [Side::Uplink, Side::Rack] {
            let mut text = Vec::new();
            for (_, frame) in out.iter().filter(|(side, _)| *side == goes_to) {
                let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
                text.extend_from_slice(&length.to_be_bytes());
                text.extend_from_slice(frame);
            }
            match goes_to {
                Side::Uplink => feet.uplink.write_all(&text)?,
                Side::Rack => feet.rack.write_all(&text)?,
            }
        }
        out.clear();
    }
}
