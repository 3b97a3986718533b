//! Any text is read as the configuration of a booter that runs alone without a panic; whatever a
//! machine then tells, it cannot put a command into its script.
#![no_main]

use std::net::Ipv4Addr;

use libfuzzer_sys::fuzz_target;
use sdc_booter::admission::Machine;
use sdc_booter::alone::{Answer, Asked, Nic, Plan, Read, ScriptSource, Scripts, faults};
use sdc_booter::live::Live;

const HOSTILE: &str = "x\n|| shell ${net0/mac} && #";

fuzz_target!(|text: &str| {
    let ip = Ipv4Addr::new(10, 0, 0, 1);
    let nic = Nic { name: "eth1".to_owned(), ip, net: "10.0.0.0/24".parse().unwrap() };
    let good = faults(text, &nic).is_empty();
    let config = Read::text(text).config;
    let named = config.hosts.iter().flat_map(|host| host.macs().to_vec()).take(8);
    let macs: Vec<_> = named.chain(["02:00:00:00:00:01".parse().unwrap()]).collect();
    let plan = Plan::new(&config);
    for mac in &macs {
        for archs in [&[][..], &[7], &[11]] {
            let _ = plan.boot_file((*mac, None), archs, ip);
        }
    }
    let scripts = Scripts::new(Live::new(plan), "/nonexistent".into(), ip, 80);
    for mac in macs {
        let machine = Machine { mac, uuid: None, serial: Some(HOSTILE), vendor: None, rack: None };
        let answer = scripts.script(&Asked { machine, ip, identified: true });
        let Answer::Script { text: script, .. } = answer else { panic!("it has told who it is") };
        assert!(script.starts_with("#!ipxe\n"));
        assert!(!good || text.contains("shell") || !script.contains("|| shell"), "{script}");
        assert!(!good || script.chars().all(|c| c == '\n' || !c.is_control()), "{script}");
    }
});
