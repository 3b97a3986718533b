//! From what the servers tell to stages and lines for people.

use std::net::IpAddr;

use headnode_model::booter::Stage;
use headnode_model::net::MacAddr;

use super::table::Table;
use super::{Tracker, files};
use crate::observe::Event;

/// Longest text that is kept of what a client sent, in characters.
const TEXT: usize = 120;

/// Longest text that is kept of what we say ourselves: it may end in the command that helps.
const OWN_TEXT: usize = 500;

fn own(text: &str) -> String {
    text.chars().take(OWN_TEXT).collect()
}

fn short(text: &str) -> String {
    text.chars().take(TEXT).collect()
}

impl Tracker {
    pub(super) fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Dhcp { .. } => self.hear_dhcp(event),
            Event::Tftp { client, file, outcome, bytes, took } => {
                let done = matches!(*outcome, "complete" | "probe");
                let what = format!(
                    "TFTP {} {outcome}, {bytes} bytes in {:.1} s",
                    short(file),
                    took.as_secs_f32()
                );
                // A probe asks for the size only.
                let stage = files::stage(file).filter(|_| *outcome == "complete");
                self.hear_file(*client, stage, *bytes, what, !done);
            }
            Event::Http { client, path, status, bytes, complete, took } => {
                let failed = *status >= 400;
                let end = if *complete { "" } else { ", broken off" };
                let what = format!(
                    "HTTP {} {status}{end}, {bytes} bytes in {:.1} s",
                    short(path),
                    took.as_secs_f32()
                );
                let stage = files::stage(path).filter(|_| !failed && *complete && *bytes > 0);
                self.hear_file(*client, stage, *bytes, what, failed || !*complete);
            }
            Event::Script { mac, uuid, kind, origin, platform, problem } => {
                let (now, limit) = self.now_and_limit();
                let mut table = self.table();
                table.with((*mac, true, limit), now, |machine| {
                    machine.uuid = uuid.or(machine.uuid);
                    machine.script = Some((*kind).to_owned());
                    machine.origin = Some(*origin);
                    machine.platform = Some(short(platform)).filter(|text| !text.is_empty());
                    machine.problem = problem.map(own);
                });
                let what = match problem {
                    Some(problem) => format!("script: {kind} ({origin}): {}", own(problem)),
                    None => format!("script: {kind} {} ({origin})", short(platform)),
                };
                self.reach(&mut table, *mac, Stage::Script, 0, what);
            }
        }
    }

    fn now_and_limit(&self) -> (i64, usize) {
        ((self.clock)(), self.settings.get().machines)
    }

    fn hear_dhcp(&self, event: &Event<'_>) {
        let Event::Dhcp { mac, uuid, asked, answer, ip, client, arch, file, rack, problem } = event
        else {
            return;
        };
        let (now, limit) = self.now_and_limit();
        let mut table = self.table();
        let stage = match *answer {
            Some("ack") if *asked != "inform" => Some(Stage::Ack),
            Some("offer" | "proxy" | "ack") => Some(Stage::Offer),
            _ => Some(Stage::Asked).filter(|_| *asked == "discover"),
        };
        let given = matches!(*answer, Some("offer" | "ack")).then_some(*ip).flatten();
        let before = table.with((*mac, false, limit), now, |machine| {
            let anew = *asked == "discover" && machine.begins_anew(client, now);
            let before = anew.then(|| machine.begin(now));
            machine.uuid = uuid.or(machine.uuid);
            machine.ip = given.or(machine.ip);
            // A booted system that asks for its address does not change what booted it.
            if *client != "other" || machine.steps.is_empty() {
                machine.client = (*client).to_owned();
                machine.arch = arch;
            }
            machine.rack = rack.map(short).or_else(|| machine.rack.take());
            machine.problem = problem.map(short).or_else(|| machine.problem.take());
            before
        });
        if let Some(Some(stage)) = before {
            let what = format!("boots anew; the boot before came to the stage {stage}");
            self.tell(&mut table, Some(*mac), None, what, false);
        }
        let mut what = format!("DHCP {asked} ({client}");
        if !arch.is_empty() {
            what.push_str(&format!(", {arch}"));
        }
        what.push(')');
        what.push_str(&match answer {
            Some(answer) => format!(": {answer}"),
            None => ": no answer".to_owned(),
        });
        if let Some(ip) = ip {
            what.push_str(&format!(" {ip}"));
        }
        if let Some(file) = file {
            what.push_str(&format!(", {}", short(file)));
        }
        if let Some(problem) = problem {
            what.push_str(&format!(": {}", short(problem)));
        }
        match stage {
            Some(stage) if problem.is_none() && before.is_some() => {
                self.reach(&mut table, *mac, stage, 0, what);
            }
            _ => self.tell(&mut table, Some(*mac), None, what, problem.is_some()),
        }
    }

    fn hear_file(
        &self,
        client: IpAddr,
        stage: Option<Stage>,
        bytes: u64,
        what: String,
        problem: bool,
    ) {
        let (now, limit) = self.now_and_limit();
        let mut table = self.table();
        let Some(mac) = table.at(client) else {
            self.tell(&mut table, None, Some(client), what, problem);
            return;
        };
        if let Some(stage) = stage {
            self.reach(&mut table, mac, stage, bytes, what);
            return;
        }
        self.note(&mut table, (mac, limit), now, problem.then(|| what.clone()));
        self.tell(&mut table, Some(mac), None, what, problem);
    }

    fn note(
        &self,
        table: &mut Table,
        (mac, limit): (MacAddr, usize),
        now: i64,
        problem: Option<String>,
    ) {
        table.with((mac, false, limit), now, |machine| {
            if problem.is_some() {
                machine.problem = problem;
            }
        });
    }
}
