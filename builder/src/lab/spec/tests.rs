use super::*;

#[test]
fn sizes_are_read() {
    assert_eq!(parse_size("8G"), Ok(8 << 30));
    assert_eq!(parse_size("512MiB"), Ok(512 << 20));
    assert_eq!(parse_size("4096"), Ok(4096));
    for bad in ["", "G", "8X", "-1G", "99999999999T", "8 G"] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
}

#[test]
fn identities_are_the_documented_ones() {
    assert_eq!(admin_mac(0).to_string(), "52:54:00:00:00:01");
    assert_eq!(admin_mac(2).to_string(), "52:54:00:00:00:03");
    assert_eq!(external_mac().to_string(), "52:54:00:00:01:01");
    let uuid = machine_uuid("lab", "node1");
    assert_eq!(uuid, machine_uuid("lab", "node1"));
    assert_ne!(uuid, machine_uuid("lab2", "node1"));
    assert_eq!(uuid.get_version_num(), 5);
}

#[test]
fn all_faults_of_the_options_are_told_at_once() {
    let mut options = Options::new("image", "dir");
    options.name = "Bad/../name".to_owned();
    options.memory = 1;
    options.node_disks = vec![5];
    options.nodes = 1;
    options.uuids = vec![parse_uuid(&format!("node2={}", Uuid::nil())).unwrap()];
    let text = options.validate().unwrap_err().to_string();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("no machine 'node2'"), "{text}");
}

#[test]
fn a_chosen_uuid_replaces_the_usual_one() {
    let options = Options {
        nodes: 2,
        uuids: vec![("node2".to_owned(), machine_uuid("lab", "node1"))],
        ..Options::new("image", "dir")
    };
    let made = machines(&options, Vec::new());
    assert_eq!(made[1].uuid, made[2].uuid);
    assert_eq!(made[0].uuid, machine_uuid("lab", "headnode"));
    assert!(parse_uuid("node2").is_err() && parse_uuid("node2=7").is_err());
}

#[test]
fn forwards_are_read() {
    assert_eq!("8080:80".parse(), Ok(Forward { host: 8080, guest: 80 }));
    assert!("8080".parse::<Forward>().is_err());
    assert!("8080:0".parse::<Forward>().is_err());
    assert!("70000:80".parse::<Forward>().is_err());
}

#[test]
fn nodes_have_their_firmware_and_the_last_ones_are_in_the_rack() {
    let options = Options {
        nodes: 5,
        rack_nodes: 2,
        node_firmware: vec![Firmware::Bios, Firmware::Uefi, Firmware::UefiHttp],
        ..Options::new("image", "dir")
    };
    options.validate().unwrap();
    let made = machines(&options, Vec::new());
    let firmware: Vec<_> = made.iter().map(|m| m.firmware).collect();
    use Firmware::{Bios, Uefi, UefiHttp};
    assert_eq!(firmware, [Bios, Bios, Uefi, UefiHttp, Bios, Uefi]);
    let in_rack: Vec<_> = made.iter().map(|m| m.in_rack).collect();
    assert_eq!(in_rack, [false, false, false, false, true, true]);
    assert!(Options { rack_nodes: 6, ..options }.validate().is_err());
    assert_eq!(serde_json::to_string(&UefiHttp).unwrap(), "\"uefi-http\"");
}

#[test]
fn the_rack_is_recorded_beside_the_admin_network() {
    assert_eq!(rack_recording(Path::new("/a/lab.pcap"), "rack1"), Path::new("/a/lab-rack1.pcap"));
    assert_eq!(rack_recording(Path::new("/a/traffic"), "r"), Path::new("/a/traffic-r.pcap"));
}
