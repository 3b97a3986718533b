use super::*;
use std::fs;

fn nic() -> Nic {
    Nic { name: "eth1".into(), ip: [10, 0, 0, 1].into(), net: "10.0.0.0/24".parse().unwrap() }
}

/// A folder with a configuration and boot files.
fn world(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("debian")).unwrap();
    for name in ["debian/linux", "debian/initrd.gz", BIOS_PROGRAM, EFI_PROGRAM] {
        fs::write(root.join(name), "x").unwrap();
    }
    fs::write(root.join("a.ipxe"), "#!ipxe\n").unwrap();
    let path = dir.path().join("booter.toml");
    let (root, state) = (root.display(), dir.path().join("state"));
    let top = format!("root = \"{root}\"\nstate = \"{}\"\n", state.display());
    fs::write(&path, format!("{top}{text}")).unwrap();
    (dir, path)
}

const GOOD: &str = "interface = \"eth1\"\n[default]\nkernel = \"debian/linux\"\n\
    initrd = \"debian/initrd.gz\"\n[group.web]\nscript = \"a.ipxe\"\n\
    [[host]]\nmac = \"52:54:00:00:00:01\"\nip = \"10.0.0.21\"\nhostname = \"one\"\n\
    [[network]]\nname = \"behind\"\nsubnet = \"10.9.0.0/24\"\nnic_tag = \"admin_rack_b\"\n\
    [[network]]\nname = \"rack\"\nsubnet = \"10.0.0.0/24\"\n\
    ranges = [{ first = \"10.0.0.100\", last = \"10.0.0.200\" }]\n";

#[test]
fn a_good_file_gives_settings_with_the_own_network_first() {
    let (_dir, path) = world(GOOD);
    let loaded = load(&path, Top::default(), &[nic()]).unwrap();
    assert_eq!(loaded.notes, []);
    let settings = loaded.settings;
    assert_eq!((settings.admin_ip, settings.interface.as_deref()), (nic().ip, Some("eth1")));
    let networks = settings.networks();
    assert_eq!(networks.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["rack", "behind"]);
    assert_eq!(networks[0].reservations[0].ip, Ipv4Addr::new(10, 0, 0, 21));
    assert_eq!(settings.firmware(), settings.root);

    let alone = settings.alone.clone().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("one", "two")).unwrap();
    let (_, networks, plan) = again(&alone, &settings).unwrap();
    assert_eq!(networks[0].reservations[0].hostname.as_deref(), Some("two"));
    assert_ne!(plan, *alone.plan.get());
    fs::write(&path, format!("user = \"x\"\n{text}")).unwrap();
    assert!(again(&alone, &settings).unwrap_err().contains("restart"));
    fs::write(&path, text.replace("kernel", "kernl")).unwrap();
    assert!(again(&alone, &settings).unwrap_err().contains("kernl"));
}

#[test]
fn what_the_command_line_says_wins() {
    let (dir, path) = world(GOOD);
    let over = Top { state: Some(dir.path().join("other")), ..Top::default() };
    let loaded = load(&path, over, &[nic()]).unwrap();
    assert_eq!(loaded.settings.state, dir.path().join("other"));
}

#[test]
fn beside_another_server_no_network_is_needed() {
    let (_dir, path) =
        world("interface = \"eth1\"\n[dhcp]\nmode = \"proxy\"\n[default]\nscript = \"a.ipxe\"\n");
    let loaded = load(&path, Top::default(), &[nic()]).unwrap();
    assert_eq!(loaded.settings.networks()[0].subnet, nic().net);
}

/// Everything that is wrong, as text.
fn wrong(text: &str) -> String {
    let (_dir, path) = world(text);
    let refused = load(&path, Top::default(), &[nic()]).unwrap_err();
    assert!(!refused.passing);
    refused.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_key_and_line() {
    let text = "interface = \"eth9\"\nrot = \"x\"\n\
        [default]\nkernel = \"{mc}\"\n\
        [group.web]\nscript = \"missing.ipxe\"\nlocal_disk = 3\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\ngroup = \"wbe\"\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\nip = \"10.7.0.1\"\n\
        [[host]]\nhostname = \"a b\"\n\
        [[host]]\nmac = \"nonsense\"\n\
        [dhcp]\nmod = \"off\"\n\
        [admission]\npolicy = \"maybe\"\n";
    let told = wrong(text);
    for line in [
        "interface: eth9 is not there or has no IPv4 address: this machine has eth1 with 10.0.0.1/24",
        "line 4, rot: there is no such key or section: there are `interface`",
        "line 6, default.kernel: there is no placeholder {mc}: there are {mac}",
        "line 9, group.web: invalid type: integer `3`, expected a boolean",
        "line 12, host 1 (52:54:00:00:00:01) group: there is no [group.wbe]",
        "line 14, host 2 (52:54:00:00:00:01) mac: 52:54:00:00:00:01 is host 1 already",
        "line 16, host 3 (a b) mac: nothing says which machine this is",
        "line 17, host 3 (a b) hostname: a name has",
        "line 19, host 4: ",
        "line 21, dhcp: unknown field `mod`",
        "line 23, admission: unknown variant `maybe`",
    ] {
        assert!(told.contains(line), "{line}\n--\n{told}");
    }
}

#[test]
fn an_interface_that_is_not_there_may_come_and_nothing_else_does() {
    let (_dir, path) = world(GOOD);
    let passing = |top: &Top| load(&path, top.clone(), &[]).unwrap_err().passing;
    assert!(passing(&Top::default()));
    let address = Some([10, 0, 0, 1].into());
    assert!(passing(&Top { address, ..Top::default() }));
    assert!(!passing(&Top { root: Some("relative".into()), ..Top::default() }));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("interface = \"eth1\"\n", "")).unwrap();
    assert!(!passing(&Top::default()), "nobody has said where to serve");
}

#[test]
fn sections_that_change_nothing_are_refused() {
    let told = wrong(&format!("{GOOD}[params]\nlookups = 9\n[script]\nmodules = 9\n"));
    for key in ["params", "script"] {
        assert!(told.contains(&format!("{key}: it is for a headnode's booter")), "{told}");
    }
}

#[test]
fn a_syntax_error_is_told_with_its_line_and_no_other() {
    let told = wrong("interface = \"eth1\n[default]\n");
    assert!(told.starts_with("line 3, TOML: "), "{told}");
    assert!(!told.contains("interface:"), "{told}");
}

#[test]
fn addresses_and_folders_must_fit() {
    let told = wrong("interface = \"eth1\"\n[default]\nlocal_disk = true\n");
    assert!(told.contains("network: no [[network]] holds 10.0.0.1"), "{told}");
    assert!(told.contains("subnet = \"10.0.0.0/24\""), "{told}");
    let network = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n";
    let told = wrong(&format!(
        "interface = \"eth1\"\n{network}[default]\nlocal_disk = true\n\
        [[host]]\nmac = \"52:54:00:00:00:01\"\nip = \"10.7.0.1\"\n\
        [[host]]\nmac = \"52:54:00:00:00:02\"\nip = \"10.0.0.1\"\n"
    ));
    assert!(told.contains("line 11, host 1 (52:54:00:00:00:01) ip: 10.7.0.1 is in no"), "{told}");
    assert!(told.contains("10.0.0.1 is the server's own address"), "{told}");
    let told = wrong(&format!("interface = \"eth1\"\nstate = \"/\"\n{network}"));
    // `state` is there twice.
    assert!(told.contains("TOML"), "{told}");
    let (_dir, path) =
        world(&format!("interface = \"eth1\"\n{network}[default]\nlocal_disk = true\n"));
    let over =
        Top { root: Some("/srv".into()), state: Some("/srv/state".into()), ..Top::default() };
    let problems = load(&path, over, &[nic()]).unwrap_err().problems;
    assert!(
        problems.iter().any(|p| p.message.contains("must not be in each other")),
        "{problems:?}"
    );
}

#[test]
fn missing_files_are_named_and_do_not_keep_it_from_starting() {
    let network = "[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n";
    let (_dir, path) = world(&format!(
        "interface = \"eth1\"\n{network}[default]\nkernel = \"none\"\n\
        initrd = [\"{{mac}}\", \"http://x/y\", \"gone\"]\n[group.g]\nscript = \"debian/linux\"\n\
        [dhcp.programs]\n11 = \"arm.efi\"\n"
    ));
    let notes = load(&path, Top::default(), &[nic()]).unwrap().notes;
    let told: String = notes.iter().map(|note| format!("{note}\n")).collect();
    for text in [
        "line 8, default.kernel: ",
        "line 9, default.initrd: ",
        "/gone: it cannot",
        "line 11, group.g.script: ",
        "does not begin with #!ipxe",
        "line 13, dhcp.programs.11: arm.efi is neither",
    ] {
        assert!(told.contains(text), "{text}\n{told}");
    }
    assert_eq!(notes.len(), 4, "{told}");
}

#[test]
fn hosts_by_serial_need_a_policy_that_lets_them_tell_it() {
    let told = wrong(
        "interface = \"eth1\"\n[admission]\npolicy = \"ignore\"\n\
        [[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/24\"\n\
        [[host]]\nserial = \"a\"\nlocal_disk = true\n[[host]]\nserial = \" A\"\n",
    );
    assert!(told.contains("host 1 (a) serial: with policy"), "{told}");
    assert!(told.contains("a is host 1 already"), "{told}");
    assert!(told.contains("host 2 ( A): nothing says what it boots"), "{told}");
}

/// The example with the `#` of its settings removed.
fn uncommented() -> String {
    let lines = super::super::EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => setting,
        _ => line,
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_example_parses_as_it_is_and_with_all_its_settings() {
    assert_eq!(Read::text(super::super::EXAMPLE).faults, []);
    let text = uncommented();
    let read = Read::text(&text);
    assert_eq!(read.faults, [], "{text}");
    // The certificate is not there.
    let faults = faults(&text, &nic());
    assert!(faults.iter().all(|fault| fault.key.starts_with("http.tls.")), "{faults:?}");
    let config = read.config;
    assert_eq!((config.hosts.len(), config.groups.len()), (2, 2));
    assert_eq!(config.file.networks.len(), 1);
    assert!(config.file.http.tls.is_some());
}

/// What may stand where something else should.
const PIECES: [&str; 14] = [
    "",
    "\n",
    "=",
    "\"",
    "{",
    "}",
    "{serial}",
    "[",
    "]",
    "[[host]]\n",
    "true",
    "-1",
    "é\u{0}",
    "\"/../x\"",
];
/// What no machine's answer may bring into a script.
const HOSTILE: &str = "x\n|| hostile ${net0/mac} && #";

proptest::proptest! {
    /// The example with a few pieces exchanged: most of it is still understood.
    #[test]
    fn a_damaged_file_is_told_and_never_gives_a_machine_a_command_of_its_own(
        edits in proptest::collection::vec((0usize..4000, 0usize..30, 0usize..PIECES.len()), 0..4),
    ) {
        let mut text = uncommented();
        for (at, length, piece) in edits {
            let from = text.floor_char_boundary(at.min(text.len()));
            let to = text.floor_char_boundary((from + length).min(text.len()));
            text.replace_range(from..to, PIECES[piece]);
        }
        let told = faults(&text, &nic());
        proptest::prop_assert!(told.iter().all(|fault| !fault.message.is_empty()));
        let config = Read::text(&text).config;
        let scripts = super::super::Scripts::new(
            Live::new(Plan::new(&config)), "/nonexistent".into(), nic().ip, 80,
        );
        let macs = config.hosts.iter().flat_map(|host| host.macs().to_vec());
        for mac in macs.chain(["02:00:00:00:00:01".parse().unwrap()]) {
            let machine = crate::admission::Machine {
                mac, uuid: None, serial: Some(HOSTILE), vendor: None, rack: None,
            };
            let asked = super::super::Asked { machine, ip: nic().ip, identified: true };
            let answer = super::super::ScriptSource::script(&scripts, &asked);
            let super::super::Answer::Script { text, .. } = answer else { panic!("{answer:?}") };
            proptest::prop_assert!(text.starts_with("#!ipxe\n"), "{}", text);
            proptest::prop_assert!(!text.contains("hostile ") && !text.contains("|| hostile"), "{}", text);
        }
    }
}
