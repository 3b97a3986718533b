//! A userspace Ethernet switch for QEMU machines: no root, no bridge, nothing leaves it.
//!
//! Every machine's QEMU connects with `-netdev stream` to the Unix socket of its [`Port`]. The
//! switch learns which address sits behind which port, floods what it does not know, records what
//! passes, and can be told to lose or delay frames or to cut a link. A QEMU that ends may come back.
//!
//! One reader and one writer thread per connected machine; they work in batches, so that a system
//! call is paid per many frames. A slow machine fills only its own queue.

mod frame;
mod pcap;
mod queue;
#[cfg(test)]
mod tests;

pub use frame::{Decoder, HostileLength, MAX_FRAME, MIN_FRAME, Mac, addresses, sender_ip};
pub use pcap::Recorder;
pub use queue::QUEUE_BYTES;

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use queue::Queue;
use serde::{Deserialize, Serialize};

/// How long an address stays known without a frame from it: IEEE 802.1D's default of 300 s.
const AGEING: Duration = Duration::from_secs(300);
/// How many addresses are known at once; beyond that frames are flooded, as in a real switch.
const TABLE_SIZE: usize = 4096;
/// How many addresses of one port are remembered with their IPs.
const SNOOP_SIZE: usize = 32;
/// How much is read from or written to a socket at once.
const BATCH: usize = 256 << 10;

/// What a link does to the frames of its machine, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Whether frames pass at all.
    pub up: bool,
    /// How many of a hundred frames are lost, in each direction; 0 to 100.
    pub loss_percent: f64,
    /// By how much each frame is late, in each direction; milliseconds.
    pub delay_ms: u64,
}

impl Default for Link {
    fn default() -> Self {
        Self { up: true, loss_percent: 0.0, delay_ms: 0 }
    }
}

/// What passed a port since the lab was started. "In" is from the machine, "out" to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// Whether a machine is connected.
    pub connected: bool,
    /// Frames from the machine.
    pub frames_in: u64,
    /// Bytes in them.
    pub bytes_in: u64,
    /// Frames sent to the machine.
    pub frames_out: u64,
    /// Bytes in them.
    pub bytes_out: u64,
    /// Frames lost because the machine did not take them in time.
    pub dropped_full: u64,
    /// Frames lost on purpose: loss or a cut link.
    pub dropped_link: u64,
    /// Frames too short to be Ethernet.
    pub runts: u64,
    /// Connections closed because their bytes were no frames.
    pub protocol_errors: u64,
    /// The addresses seen behind this port, each with the IPv4 address it used last.
    pub addresses: BTreeMap<String, Option<Ipv4Addr>>,
}

#[derive(Default)]
struct Counters {
    frames_in: AtomicU64,
    bytes_in: AtomicU64,
    frames_out: AtomicU64,
    bytes_out: AtomicU64,
    dropped_full: AtomicU64,
    dropped_link: AtomicU64,
    runts: AtomicU64,
    protocol_errors: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A machine's connection: its queue, and the socket so that it can be closed.
struct Attached {
    generation: u64,
    queue: Arc<Queue>,
    stream: UnixStream,
}

struct PortState {
    name: String,
    counters: Counters,
    link: Mutex<Link>,
    attached: RwLock<Option<Attached>>,
    snooped: Mutex<BTreeMap<Mac, Option<Ipv4Addr>>>,
}

struct Learned {
    port: usize,
    seen: Instant,
}

struct Fabric {
    ports: RwLock<Vec<Arc<PortState>>>,
    table: Mutex<HashMap<Mac, Learned>>,
    recorder: Mutex<Option<Recorder>>,
    ageing: Duration,
    generation: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The switch. Clones are handles to the same one.
#[derive(Clone)]
pub struct Switch {
    fabric: Arc<Fabric>,
}

/// One port of a [`Switch`].
#[derive(Clone)]
pub struct Port {
    fabric: Arc<Fabric>,
    index: usize,
    state: Arc<PortState>,
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        Self::with_ageing(AGEING)
    }

    /// A switch that forgets an address when no frame came from it for this long.
    pub fn with_ageing(ageing: Duration) -> Self {
        let fabric = Fabric {
            ports: RwLock::default(),
            table: Mutex::default(),
            recorder: Mutex::default(),
            ageing,
            generation: AtomicU64::new(1),
        };
        Self { fabric: Arc::new(fabric) }
    }

    /// Adds a port for the machine of this name.
    pub fn add_port(&self, name: &str) -> Port {
        let state = Arc::new(PortState {
            name: name.to_owned(),
            counters: Counters::default(),
            link: Mutex::default(),
            attached: RwLock::default(),
            snooped: Mutex::default(),
        });
        let mut ports = self.fabric.ports.write().unwrap_or_else(PoisonError::into_inner);
        ports.push(Arc::clone(&state));
        Port { fabric: Arc::clone(&self.fabric), index: ports.len() - 1, state }
    }

    /// Records every frame that a machine sends, from now on, also those that a link then loses.
    /// The file is brought up to date about twice a second.
    ///
    /// # Errors
    /// What the file system says.
    pub fn record(&self, path: &Path) -> std::io::Result<()> {
        *lock(&self.fabric.recorder) = Some(Recorder::create(path)?);
        let fabric = Arc::downgrade(&self.fabric);
        std::thread::Builder::new().name("pcap".to_owned()).spawn(move || {
            while let Some(fabric) = fabric.upgrade() {
                let mut recorder = lock(&fabric.recorder);
                let flushed = recorder.as_mut().map_or(Ok(()), Recorder::flush);
                if let Err(error) = flushed {
                    tracing::error!(%error, "the recording of the traffic ends: writing it failed");
                    *recorder = None;
                }
                drop(recorder);
                drop(fabric);
                std::thread::sleep(Duration::from_millis(500));
            }
        })?;
        Ok(())
    }

    /// Writes out what the recording holds back, and ends it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn stop_recording(&self) -> std::io::Result<()> {
        lock(&self.fabric.recorder).take().map_or(Ok(()), |mut recorder| recorder.flush())
    }
}

impl Port {
    /// The name of the machine at this port.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Accepts this port's machine whenever it connects; a new connection replaces the old one.
    /// Ends with the program.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(&self, listener: UnixListener) -> std::io::Result<()> {
        let port = self.clone();
        std::thread::Builder::new().name(format!("port-{}", self.name())).spawn(move || {
            for stream in listener.incoming() {
                if let Err(error) = stream.and_then(|s| port.attach(s)) {
                    tracing::warn!(port = port.name(), %error, "accepting a machine failed");
                }
            }
        })?;
        Ok(())
    }

    /// Connects a machine.
    ///
    /// # Errors
    /// When the socket cannot be shared or no thread can be started.
    pub fn attach(&self, stream: UnixStream) -> std::io::Result<()> {
        // The standard buffer of 208 KiB holds few frames of a download; the kernel caps this.
        let option = nix::sys::socket::sockopt::SndBuf;
        let _ = nix::sys::socket::setsockopt(&stream, option, &(1 << 20));
        let generation = self.fabric.generation.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::default());
        let reader = stream.try_clone()?;
        let writer = stream.try_clone()?;
        let old = {
            let mut attached = self.state.attached.write().unwrap_or_else(PoisonError::into_inner);
            attached.replace(Attached { generation, queue: Arc::clone(&queue), stream })
        };
        close(old);
        let port = self.clone();
        std::thread::Builder::new()
            .name(format!("out-{}", self.name()))
            .spawn(move || port.write_all(writer, &queue))?;
        let port = self.clone();
        std::thread::Builder::new().name(format!("in-{}", self.name())).spawn(move || {
            port.read_all(reader);
            port.detach(generation);
        })?;
        Ok(())
    }

    /// Changes what the link does to frames.
    pub fn set_link(&self, link: Link) {
        *lock(&self.state.link) = link;
    }

    /// What the link does to frames.
    pub fn link(&self) -> Link {
        *lock(&self.state.link)
    }

    /// What passed this port.
    pub fn stats(&self) -> PortStats {
        let c = &self.state.counters;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let attached = self.state.attached.read().unwrap_or_else(PoisonError::into_inner);
        PortStats {
            connected: attached.is_some(),
            frames_in: get(&c.frames_in),
            bytes_in: get(&c.bytes_in),
            frames_out: get(&c.frames_out),
            bytes_out: get(&c.bytes_out),
            dropped_full: get(&c.dropped_full),
            dropped_link: get(&c.dropped_link),
            runts: get(&c.runts),
            protocol_errors: get(&c.protocol_errors),
            addresses: lock(&self.state.snooped).iter().map(|(m, i)| (m.to_string(), *i)).collect(),
        }
    }

    fn detach(&self, generation: u64) {
        let mut attached = self.state.attached.write().unwrap_or_else(PoisonError::into_inner);
        if attached.as_ref().is_some_and(|a| a.generation == generation) {
            close(attached.take());
        }
    }

    fn write_all(&self, mut stream: UnixStream, queue: &Queue) {
        let mut out = Vec::with_capacity(BATCH);
        while let Some(frames) = queue.take(&mut out, BATCH) {
            if stream.write_all(&out).is_err() {
                // The machine has ended; its reader notices too and detaches the port.
                return;
            }
            add(&self.state.counters.frames_out, frames as u64);
            add(&self.state.counters.bytes_out, (out.len() - 4 * frames) as u64);
        }
    }

    fn read_all(&self, mut stream: UnixStream) {
        let mut decoder = Decoder::default();
        let mut bytes = vec![0; BATCH];
        let mut snooped: Option<(Mac, Option<Ipv4Addr>)> = None;
        loop {
            let count = match stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            decoder.push(&bytes[..count]);
            if let Err(error) = self.forward_all(&mut decoder, &mut snooped) {
                add(&self.state.counters.protocol_errors, 1);
                tracing::warn!(port = self.name(), %error, "closing the port's connection");
                return;
            }
        }
    }

    /// Forwards every whole frame that the decoder holds. Locks and clocks are paid once per batch.
    fn forward_all(
        &self,
        decoder: &mut Decoder,
        snooped: &mut Option<(Mac, Option<Ipv4Addr>)>,
    ) -> Result<(), HostileLength> {
        let now = Instant::now();
        let when = SystemTime::now();
        let link = self.link();
        let c = &self.state.counters;
        let ports = self.fabric.ports.read().unwrap_or_else(PoisonError::into_inner);
        let mut table = lock(&self.fabric.table);
        let mut recorder = lock(&self.fabric.recorder);
        while let Some(frame) = decoder.next_frame()? {
            add(&c.frames_in, 1);
            add(&c.bytes_in, frame.len() as u64);
            let Some((source, destination)) = addresses(frame) else {
                add(&c.runts, 1);
                continue;
            };
            if let Some(recorder) = recorder.as_mut() {
                // The flusher meets the same error, tells it and ends the recording.
                drop(recorder.write(when, frame));
            }
            if lost(&link) {
                add(&c.dropped_link, 1);
                continue;
            }
            self.snoop(source, frame, snooped);
            if !source.is_group() {
                learn(&mut table, source, self.index, now, self.fabric.ageing);
            }
            let known = if destination.is_group() { None } else { table.get(&destination) };
            let known = known.filter(|l| now.duration_since(l.seen) < self.fabric.ageing);
            let delay = Duration::from_millis(link.delay_ms);
            match known.map(|l| l.port) {
                Some(port) if port == self.index => {}
                Some(port) => {
                    if let Some(port) = ports.get(port) {
                        port.deliver(now + delay, &Arc::from(frame));
                    }
                }
                None => {
                    let frame = Arc::from(frame);
                    for (index, port) in ports.iter().enumerate() {
                        if index != self.index {
                            port.deliver(now + delay, &frame);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Remembers which IPv4 address the sender has; `last` spares the lock for a stream of frames.
    fn snoop(&self, source: Mac, frame: &[u8], last: &mut Option<(Mac, Option<Ipv4Addr>)>) {
        let ip = sender_ip(frame);
        if last.is_some_and(|(mac, known)| mac == source && (ip.is_none() || ip == known)) {
            return;
        }
        let mut all = lock(&self.state.snooped);
        if all.len() >= SNOOP_SIZE && !all.contains_key(&source) {
            return;
        }
        let entry = all.entry(source).or_default();
        if ip.is_some() {
            *entry = ip;
        }
        *last = Some((source, *entry));
    }
}

impl PortState {
    fn deliver(&self, due: Instant, frame: &Arc<[u8]>) {
        let attached = self.attached.read().unwrap_or_else(PoisonError::into_inner);
        let Some(attached) = attached.as_ref() else { return };
        let link = *lock(&self.link);
        if lost(&link) {
            add(&self.counters.dropped_link, 1);
        } else if !attached.queue.push(due + Duration::from_millis(link.delay_ms), frame.clone()) {
            add(&self.counters.dropped_full, 1);
        }
    }
}

fn close(attached: Option<Attached>) {
    if let Some(attached) = attached {
        attached.queue.close();
        // The peer may have closed it already.
        drop(attached.stream.shutdown(Shutdown::Both));
    }
}

fn learn(
    table: &mut HashMap<Mac, Learned>,
    source: Mac,
    port: usize,
    now: Instant,
    ageing: Duration,
) {
    if let Some(known) = table.get_mut(&source) {
        *known = Learned { port, seen: now };
        return;
    }
    if table.len() >= TABLE_SIZE {
        table.retain(|_, l| now.duration_since(l.seen) < ageing);
    }
    if table.len() < TABLE_SIZE {
        table.insert(source, Learned { port, seen: now });
    }
}

fn lost(link: &Link) -> bool {
    if !link.up {
        return true;
    }
    // The random number is drawn only where it is asked for.
    link.loss_percent > 0.0 && random_percent() < link.loss_percent
}

/// A number from 0 to below 100 (xorshift64*, one state per thread): loss needs no better one.
fn random_percent() -> f64 {
    use std::cell::Cell;
    use std::hash::{BuildHasher, RandomState};
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(1) | 1);
    }
    STATE.with(|state| {
        let mut x = state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64 * 100.0
    })
}
