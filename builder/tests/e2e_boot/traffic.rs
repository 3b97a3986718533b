//! What Wireshark makes of the recorded traffic.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What this output of tshark's says; it must end well.
fn tshark(recording: &Path, filter: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    // Frames, not streams: whole archives would be put together in memory.
    command.args(["-n", "-o", "tcp.desegment_tcp_streams:FALSE", "-o", "ip.check_checksum:TRUE"]);
    command.args(["-o", "udp.check_checksum:TRUE", "-r"]).arg(recording);
    command.args(["-Y", filter]).args(arguments);
    let out = command.output().expect("tshark must be installed");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "tshark -r {}: {said}", recording.display());
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The fields of the frames that the filter finds, a line each.
fn frames(recording: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let named = fields.iter().flat_map(|field| ["-e", field]);
    let arguments: Vec<&str> = ["-T", "fields"].into_iter().chain(named).collect();
    tshark(recording, filter, &arguments)
}

/// A recording of who asked what, without the bulk, beside the whole one: it is looked at often.
pub fn questions(recording: &Path) -> PathBuf {
    let to = recording.with_extension("questions.pcap");
    let name = to.to_str().unwrap();
    tshark(recording, "dhcp or http.request or tftp.opcode == 1", &["-F", "pcap", "-w", name]);
    to
}

/// Every recorded frame can be read to its end, and its checksums are right.
pub fn is_well_formed(recordings: &[PathBuf]) {
    // A piece out of the middle of an archive is no message; it may by chance begin like one.
    let archive = "http and not http.request and not http.response";
    let wrong = format!(
        "(_ws.malformed and not ({archive})) or ip.checksum.status == 0 or udp.checksum.status == 0"
    );
    let fields = ["frame.number", "_ws.col.Protocol", "_ws.col.Info"];
    for recording in recordings {
        let found = frames(recording, &wrong, &fields);
        assert_eq!(found, Vec::<String>::new(), "in {}", recording.display());
    }
}

/// The machine asked as a HTTP client, and its firmware then loaded the program.
pub fn has_booted_by_http(recording: &Path, mac: &str) {
    let asked = format!("dhcp.option.vendor_class_id contains \"HTTPClient\" and eth.src == {mac}");
    assert!(!frames(recording, &asked, &["frame.number"]).is_empty());
    let got = format!("http.request.uri == \"/firmware/snponly.efi\" and eth.src == {mac}");
    assert!(!frames(recording, &got, &["frame.number"]).is_empty());
    let tftp = format!("tftp.opcode == 1 and eth.src == {mac}");
    assert_eq!(frames(recording, &tftp, &["frame.number"]), Vec::<String>::new());
}

/// The machine's requests reached the headnode with the relay's address and the rack's name, which its
/// replies told back; the machine itself saw nothing of the name.
pub fn has_relayed(recordings: &[PathBuf], mac: &str) {
    let [admin, rack] = recordings else { panic!("{recordings:?}") };
    for (kind, name) in [(1, "a discover"), (2, "an offer"), (3, "a request"), (5, "an ACK")] {
        let filter = format!("dhcp.option.dhcp == {kind} and dhcp.hw.mac_addr == {mac}");
        let fields = ["dhcp.ip.relay", "dhcp.option.agent_information_option.agent_circuit_id"];
        let relayed = frames(admin, &filter, &fields);
        // The field is text in some versions and bytes in others.
        let right = |line: &String| {
            line.starts_with("10.98.0.1\t")
                && (line.contains("rack1") || line.contains("7261636b31"))
        };
        assert!(!relayed.is_empty() && relayed.iter().all(right), "{name}: {relayed:?}");
        let told = frames(rack, &format!("{filter} and dhcp.option.type == 82"), &["frame.number"]);
        assert_eq!(told, Vec::<String>::new(), "{name}");
    }
}
