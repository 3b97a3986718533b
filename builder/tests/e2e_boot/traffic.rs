//! What Wireshark makes of the recorded traffic.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The fields of the frames that the filter finds, a line each.
fn frames(recording: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    // Frames, not streams: whole archives would be put together in memory.
    command.args(["-n", "-o", "tcp.desegment_tcp_streams:FALSE", "-o", "ip.check_checksum:TRUE"]);
    command.args(["-o", "udp.check_checksum:TRUE", "-r"]).arg(recording).args(["-Y", filter]);
    command.args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let out = command.output().expect("tshark must be installed");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "tshark -r {}: {said}", recording.display());
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Every recorded frame can be read to its end, and its checksums are right.
pub fn is_well_formed(recordings: &[PathBuf]) {
    let wrong = "_ws.malformed or ip.checksum.status == 0 or udp.checksum.status == 0";
    let fields = ["frame.number", "_ws.col.Protocol", "_ws.col.Info"];
    for recording in recordings {
        let dhcp = frames(recording, "dhcp", &["frame.number"]);
        assert!(dhcp.len() >= 4, "{} shows no boot", recording.display());
        let found = frames(recording, wrong, &fields);
        assert_eq!(found, Vec::<String>::new(), "in {}", recording.display());
    }
}

/// The machine asked as a HTTP client, and its firmware then loaded the program.
pub fn has_booted_by_http(recording: &Path, mac: &str) {
    let asked = format!("dhcp.option.vendor_class_id contains \"HTTPClient\" and eth.src == {mac}");
    assert!(!frames(recording, &asked, &["frame.number"]).is_empty());
    let got = format!("http.request.uri == \"/firmware/snponly.efi\" and eth.src == {mac}");
    assert!(!frames(recording, &got, &["frame.number"]).is_empty());
    let tftp = format!("tftp and eth.addr == {mac}");
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
