//! What reaches the agent from outside: tasks' parameters, records on disks, the configuration's
//! password hash, what the kernel prints of its processors.
#![no_main]

use headnode_node::{smbios, sysinfo::cpu::Cpus};
use sdc_agent::linux::{config, intent};
use sdc_agent::tasks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = intent::parse(data);
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) {
        let _ = tasks::setup_request(&value);
    }
    let text = String::from_utf8_lossy(data);
    let _ = smbios::judge_uuid(&text);
    let _ = Cpus::parse(&text);
    let shadow = "root:*:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n";
    if let Ok(changed) = config::with_root_hash(shadow, &text) {
        assert_eq!(changed.lines().count(), 2, "the file keeps its lines");
    }
});
