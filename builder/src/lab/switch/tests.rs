use super::*;

const TIMEOUT: Duration = Duration::from_secs(10);
const ANN: Mac = Mac([2, 0, 0, 0, 0, 1]);
const BOB: Mac = Mac([2, 0, 0, 0, 0, 2]);
const EVERYBODY: Mac = Mac([0xff; 6]);

struct Client(UnixStream);

impl Client {
    fn new(port: &Port) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        port.attach(theirs).unwrap();
        Self(ours)
    }

    fn send(&mut self, source: Mac, destination: Mac, text: &str) {
        let mut frame = [destination.0, source.0].concat();
        frame.extend_from_slice(&[0x88, 0xb5]);
        frame.extend_from_slice(text.as_bytes());
        self.0.write_all(&u32::try_from(frame.len()).unwrap().to_be_bytes()).unwrap();
        self.0.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> String {
        self.0.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut length = [0; 4];
        self.0.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).unwrap();
        String::from_utf8(frame[14..].to_vec()).unwrap()
    }

    /// Asserts that nothing but `last` comes, which the caller has just had sent to everybody.
    fn receives_only(&mut self, last: &str) {
        assert_eq!(self.receive(), last);
    }
}

fn three() -> (Switch, [Port; 3], [Client; 3]) {
    let switch = Switch::new();
    let ports = ["a", "b", "c"].map(|name| switch.add_port(name));
    let clients = [0, 1, 2].map(|i| Client::new(&ports[i]));
    (switch, ports, clients)
}

#[test]
fn unknown_and_broadcast_frames_go_to_all_others_and_known_ones_to_their_port() {
    let (_switch, ports, [mut a, mut b, mut c]) = three();
    a.send(ANN, BOB, "where is bob?");
    assert_eq!((b.receive(), c.receive()), ("where is bob?".into(), "where is bob?".into()));
    b.send(BOB, ANN, "here");
    assert_eq!(a.receive(), "here");
    a.send(ANN, BOB, "for bob");
    assert_eq!(b.receive(), "for bob");
    a.send(ANN, EVERYBODY, "for all");
    assert_eq!(b.receive(), "for all");
    c.receives_only("for all");
    assert_eq!(ports[0].stats().frames_in, 3);
    assert!(ports[2].stats().addresses.is_empty());
    assert!(ports[1].stats().addresses.contains_key("02:00:00:00:00:02"));
}

#[test]
fn a_machine_that_moved_is_found_at_its_new_port() {
    let (_switch, _ports, [mut a, mut b, mut c]) = three();
    b.send(BOB, EVERYBODY, "at b");
    assert_eq!((a.receive(), c.receive()), ("at b".into(), "at b".into()));
    c.send(BOB, EVERYBODY, "at c");
    assert_eq!((a.receive(), b.receive()), ("at c".into(), "at c".into()));
    a.send(ANN, BOB, "hello");
    assert_eq!(c.receive(), "hello");
    a.send(ANN, EVERYBODY, "end");
    b.receives_only("end");
}

#[test]
fn an_aged_address_is_flooded_again() {
    let switch = Switch::with_ageing(Duration::ZERO);
    let ports = ["a", "b", "c"].map(|name| switch.add_port(name));
    let [mut a, mut b, mut c] = [0, 1, 2].map(|i| Client::new(&ports[i]));
    b.send(BOB, EVERYBODY, "here");
    assert_eq!((a.receive(), c.receive()), ("here".into(), "here".into()));
    a.send(ANN, BOB, "hello");
    assert_eq!((b.receive(), c.receive()), ("hello".into(), "hello".into()));
}

#[test]
fn a_cut_link_passes_nothing_and_total_loss_neither() {
    let (_switch, ports, [mut a, mut b, mut c]) = three();
    ports[1].set_link(Link { up: false, ..Link::default() });
    a.send(ANN, EVERYBODY, "one");
    assert_eq!(c.receive(), "one");
    ports[1].set_link(Link { loss_percent: 100.0, ..Link::default() });
    a.send(ANN, EVERYBODY, "two");
    assert_eq!(c.receive(), "two");
    ports[1].set_link(Link::default());
    a.send(ANN, EVERYBODY, "three");
    b.receives_only("three");
    assert_eq!(ports[1].stats().dropped_link, 2);
}

#[test]
fn partial_loss_is_near_what_was_asked() {
    let (_switch, ports, [mut a, _b, mut c]) = three();
    ports[1].set_link(Link { loss_percent: 30.0, ..Link::default() });
    for _ in 0..2000 {
        a.send(ANN, EVERYBODY, "x");
    }
    for _ in 0..2000 {
        c.receive();
    }
    let lost = ports[1].stats().dropped_link;
    assert!((450..750).contains(&lost), "{lost}");
}

#[test]
fn a_delay_holds_frames_back_and_keeps_their_order() {
    let (_switch, ports, [mut a, mut b, _c]) = three();
    ports[1].set_link(Link { delay_ms: 120, ..Link::default() });
    let begin = Instant::now();
    a.send(ANN, EVERYBODY, "1");
    a.send(ANN, EVERYBODY, "2");
    assert_eq!(b.receive(), "1");
    assert!(begin.elapsed() >= Duration::from_millis(120));
    assert_eq!(b.receive(), "2");
}

#[test]
fn a_hostile_length_closes_only_its_own_port_and_the_machine_may_come_back() {
    let (_switch, ports, [mut a, mut b, _c]) = three();
    a.0.write_all(&[0x7f, 0, 0, 0, 1, 2, 3]).unwrap();
    a.0.set_read_timeout(Some(TIMEOUT)).unwrap();
    assert_eq!(a.0.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(ports[0].stats().protocol_errors, 1);
    let mut again = Client::new(&ports[0]);
    again.send(ANN, EVERYBODY, "back");
    assert_eq!(b.receive(), "back");
}

#[test]
fn runts_are_counted_and_go_nowhere() {
    let (_switch, ports, [mut a, mut b, _c]) = three();
    a.0.write_all(&[0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0]).unwrap();
    a.send(ANN, EVERYBODY, "whole");
    b.receives_only("whole");
    assert_eq!(ports[0].stats().runts, 2);
}

#[test]
fn a_machine_that_reads_nothing_fills_only_its_own_queue() {
    let (_switch, ports, [mut a, _deaf, mut c]) = three();
    let text = "x".repeat(60_000);
    // The reader keeps up, so it gets every frame; 24 MB do not fit into the other's queue.
    for _ in 0..400 {
        a.send(ANN, EVERYBODY, &text);
        assert_eq!(c.receive().len(), 60_000);
    }
    assert!(ports[1].stats().dropped_full > 0);
    assert_eq!(ports[2].stats().dropped_full, 0);
}

#[test]
fn the_recording_is_a_pcap_file_of_every_frame_that_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lab.pcap");
    let (switch, _ports, [mut a, mut b, _c]) = three();
    switch.record(&path).unwrap();
    a.send(ANN, EVERYBODY, "recorded");
    assert_eq!(b.receive(), "recorded");
    switch.stop_recording().unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
    assert_eq!(bytes.len(), 24 + 16 + 14 + "recorded".len());
    assert_eq!(bytes[24 + 8..24 + 12], 22u32.to_le_bytes());
    assert_eq!(&bytes[24 + 16 + 14..], b"recorded");
}
