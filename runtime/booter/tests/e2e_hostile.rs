//! A hostile network: starvation, spoofed messages, noise, slow connections, forged sources. Machines
//! boot all the same. Needs root and iproute2.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod lab;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{encode, pxe};
use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder};
use lab::{Cable, Lab, SERVER, config, large, within};
use sdc_storm::Plan;
use socket2::{Domain, Protocol, Socket, Type};

/// Machines of the attacker.
const FORGED: u32 = 20_000;

/// A socket that broadcasts as DHCP clients do, and hears replies beside the storm's.
fn client_socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind_device(Some(b"eth0")).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    socket.into()
}

fn everyone() -> SocketAddr {
    (Ipv4Addr::BROADCAST, 67).into()
}

fn server_id() -> DhcpOption {
    DhcpOption::ServerIdentifier(SERVER.parse().unwrap())
}

/// MACs of the simulated machines, as the storm makes them.
fn mac_of(plan: &Plan, number: u32) -> [u8; 6] {
    let [a, b] = plan.mac_prefix;
    let [c, d, e, f] = number.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Bytes that are the same in each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 1400;
        (0..length).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn e2e_known_machines_boot_while_addresses_are_starved() {
    let mut lab = Lab::new("hs", Cable::Good);
    // 250 addresses.
    lab.booter(&config("10.99.128.250", 2_592_000), &[]);
    let known = lab.plan(5);
    let before = lab.boots(&known);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (sent_all, all_sent) = std::sync::mpsc::channel();
    let attacker = within(&lab.peer, move || {
        let socket = client_socket();
        let mut noise = Noise(7);
        let mut buffer = [0; 1500];
        let mut got = 0;
        for number in 0.. {
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            if number == FORGED {
                sent_all.send(()).unwrap();
            }
            let [a, b, c, d] = noise.next().to_be_bytes();
            let mut mac = [0x06, 0x66, a, b, c, d];
            mac[5] ^= number as u8;
            let mut discover = pxe(MessageType::Discover, mac, None);
            discover.set_xid(number);
            socket.send_to(&encode(&discover), everyone()).unwrap();
            // Takes what it is offered; looks for it now and then, a look costs milliseconds.
            if number % 64 != 0 {
                continue;
            }
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let Ok(offer) = Message::decode(&mut Decoder::new(&buffer[..length])) else {
                    continue;
                };
                if offer.chaddr()[..2] != [0x06, 0x66]
                    || offer.opts().msg_type() != Some(MessageType::Offer)
                {
                    continue;
                }
                let mac: [u8; 6] = offer.chaddr().try_into().unwrap();
                let mut request = pxe(MessageType::Request, mac, None);
                request.set_xid(offer.xid());
                request.opts_mut().insert(DhcpOption::RequestedIpAddress(offer.yiaddr()));
                request.opts_mut().insert(server_id());
                socket.send_to(&encode(&request), everyone()).unwrap();
                got += 1;
            }
        }
        got
    });
    // While it goes on, the known machines boot, with their addresses.
    let during = lab.storm(&known);
    let ended = all_sent.recv_timeout(Duration::from_secs(240));
    stop.store(true, Ordering::Relaxed);
    println!("the attacker took {} offers", attacker.join().unwrap());
    ended.expect("the attack did not come through in time");
    assert!(during.is_good(), "{during}");
    assert_eq!(during.addresses, before.addresses);
    let memory = lab.memory("VmHWM");
    println!("the booter's memory at most: {:.1} MB", memory as f64 / 1e6);
    assert!(memory < 128_000_000, "{memory}");
    assert!(lab.path("booter.log").metadata().unwrap().len() < 20_000_000, "the log is flooded");
    assert_eq!(lab.boots(&known).addresses, before.addresses);
}

#[test]
fn e2e_spoofed_releases_and_declines_give_no_address_to_a_stranger() {
    let mut lab = Lab::new("hr", Cable::Good);
    lab.booter(&config("10.99.128.2", 2_592_000), &[]);
    let known = lab.plan(1);
    let before = lab.boots(&known);
    let ip = *before.addresses.iter().next().unwrap();
    let mac = mac_of(&known, known.first);
    let offered = within(&lab.peer, move || {
        // From its own address, not from the machine's.
        let other = UdpSocket::bind((lab::PEER.parse::<Ipv4Addr>().unwrap(), 0)).unwrap();
        let mut release = pxe(MessageType::Release, mac, None);
        release.set_ciaddr(ip);
        release.opts_mut().insert(server_id());
        other.send_to(&encode(&release), (SERVER, 67)).unwrap();
        let socket = client_socket();
        let mut decline = pxe(MessageType::Decline, mac, None);
        decline.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
        decline.opts_mut().insert(server_id());
        socket.send_to(&encode(&decline), everyone()).unwrap();
        // Two strangers would like the address: there is one other.
        let mut offered = Vec::new();
        for number in [1, 2] {
            let mut discover = pxe(MessageType::Discover, [6, 0x77, 0, 0, 0, number], None);
            discover.set_xid(number.into());
            discover.opts_mut().insert(DhcpOption::RequestedIpAddress(ip));
            socket.send_to(&encode(&discover), everyone()).unwrap();
            let mut buffer = [0; 1500];
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until {
                let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
                let reply = Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
                if reply.xid() == u32::from(number) {
                    offered.push(reply.yiaddr());
                    break;
                }
            }
        }
        offered
    });
    let offered = offered.join().unwrap();
    assert!(!offered.is_empty(), "nobody was offered the other address");
    assert!(!offered.contains(&ip), "{ip} was offered to a stranger: {offered:?}");
    // A DECLINE that somebody forges right after the ACK looks like a real one: the machine has another
    // address then, and boots all the same.
    assert_eq!(lab.boots(&known).addresses.len(), 1);
}

#[test]
fn e2e_noise_on_all_ports_harms_nobody() {
    let mut lab = Lab::new("hn", Cable::Good);
    lab.booter(&large(), &[]);
    let noise = within(&lab.peer, || {
        let mut noise = Noise(11);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let good = encode(&pxe(MessageType::Discover, [2, 0, 0, 0, 0, 9], None));
        for round in 0..2000 {
            let mut bytes = noise.bytes();
            if round % 2 == 0 {
                // A good beginning takes noise further in.
                bytes.splice(..0, good[..(noise.next() as usize % good.len())].iter().copied());
            }
            if round % 5 == 0 {
                bytes.splice(..0, [0, (noise.next() % 7) as u8]);
            }
            for port in [67, 68, 69, 4011] {
                // Refused where nobody listens.
                let _ = socket.send_to(&bytes, (SERVER, port));
            }
        }
        for _ in 0..50 {
            let mut stream = TcpStream::connect((SERVER, 80)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let _ = stream.write_all(&noise.bytes());
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            if let Err(error) = stream.read_to_end(&mut answer) {
                let known =
                    [ErrorKind::ConnectionReset, ErrorKind::WouldBlock, ErrorKind::TimedOut];
                assert!(known.contains(&error.kind()), "{error}");
            }
        }
    });
    noise.join().unwrap();
    lab.boots(&lab.plan(20));
    let running = lab.booter.as_mut().unwrap().try_wait().unwrap();
    assert_eq!(running, None);
    assert!(!lab.log("booter.log").contains("panicked"));
}

#[test]
fn e2e_slow_http_clients_keep_nobody_from_booting() {
    let mut lab = Lab::new("hl", Cable::Good);
    lab.booter(&large(), &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let (opened, ready) = std::sync::mpsc::channel();
    let attacker = within(&lab.peer, move || {
        let to = SocketAddr::from((SERVER.parse::<Ipv4Addr>().unwrap(), 80));
        let mut held = Vec::new();
        for _ in 0..1500 {
            let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else {
                break;
            };
            if stream.write_all(b"GET / HTTP/1.1\r\nX: ").is_ok() {
                stream.set_nonblocking(true).unwrap();
                held.push(stream);
            }
        }
        opened.send(held.len()).unwrap();
        while !stopped.load(Ordering::Relaxed) {
            // One byte each, for ever.
            held.retain_mut(|stream| stream.write_all(b"a").is_ok());
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let held = ready.recv_timeout(Duration::from_secs(120)).unwrap();
    println!("{held} slow connections");
    assert!(held > 0);
    let report = lab.storm(&lab.plan(20));
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    println!("{report}");
    assert!(report.is_good(), "{report}");
}

#[test]
fn e2e_forged_tftp_requests_get_at_most_one_packet_each() {
    let mut lab = Lab::new("ht", Cable::Good);
    lab.booter(&large(), &[]);
    let counts = within(&lab.peer, || {
        // Each from an address of its own, where somebody counts and does not answer.
        let victims: Vec<UdpSocket> = (0..1000_u32)
            .map(|n| {
                let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 99, 200, 1)) + n);
                let socket = UdpSocket::bind((ip, 3000)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        for (socket, number) in victims.iter().zip(0..) {
            let options = ["blksize\x001468\0windowsize\x0064\0", "tsize\x000\0", ""][number % 3];
            let request = format!("\0\x01snponly.efi\0octet\0{options}");
            socket.send_to(request.as_bytes(), (SERVER, 69)).unwrap();
        }
        // Longer than any server waits before it sends the first packet again.
        let until = Instant::now() + Duration::from_secs(12);
        let mut counts = vec![0_u32; victims.len()];
        let mut buffer = [0; 1600];
        while Instant::now() < until {
            for (socket, count) in victims.iter().zip(&mut counts) {
                while socket.recv_from(&mut buffer).is_ok() {
                    *count += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        counts
    });
    // Machines boot meanwhile.
    let report = lab.storm(&lab.plan(10));
    let counts = counts.join().unwrap();
    let most = counts.iter().max().unwrap();
    let answered = counts.iter().filter(|count| **count > 0).count();
    println!("{answered} of {} were sent something, {most} packets at most", counts.len());
    assert!(answered > 0);
    assert!(*most <= 1, "{most} packets for one request");
    assert!(report.is_good(), "{report}");
}
