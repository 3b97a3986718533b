//! Disks for the eyes: the table of `headnode flash --list`, and what will be lost.

use super::disk::{Disk, Used};
use super::refuse::{Policy, Refusal, refusals, told};
use super::signature::Content;

/// A size as it is printed on disks: powers of ten, no more digits than one reads.
pub fn size(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1000, "kB")];
    let Some((unit, name)) = units.into_iter().find(|(unit, _)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let value = bytes as f64 / unit as f64;
    if value < 9.95 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

/// All disks with what is on them, who uses them and whether they could be written to.
pub fn table(disks: &[Disk], policy: &Policy) -> String {
    let head = ["NAME", "BUS", "SIZE", "MODEL", "ON IT", "WRITABLE", "ID"].map(ToOwned::to_owned);
    let mut rows = vec![head];
    for disk in disks {
        rows.push([
            disk.name.clone(),
            disk.bus.name().to_owned(),
            size(disk.size),
            disk.model.clone().unwrap_or_else(|| "-".to_owned()),
            on_it(disk),
            writable(&refusals(disk, policy)),
            disk.id.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..7).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn writable(refusals: &[Refusal]) -> String {
    let reason = |refusal: &Refusal| match refusal {
        Refusal::System { .. } => "never: the system runs from it".to_owned(),
        Refusal::HoldsSource { .. } => "no: the image is on it".to_owned(),
        Refusal::InUse(one) => match &one.used {
            Used::Mounted { .. } => "no: mounted".to_owned(),
            Used::Swap => "no: swap".to_owned(),
            _ => "no: in use".to_owned(),
        },
        Refusal::Member(_) => "no: has a volume label".to_owned(),
        Refusal::TooSmall { .. } => "no: too small".to_owned(),
        Refusal::NoMedium { .. } => "no: empty drive".to_owned(),
        Refusal::ReadOnly { .. } => "no: read-only".to_owned(),
        Refusal::Sector { has, .. } => format!("no: sectors of {has} bytes"),
        Refusal::NotRemovable { .. } => "with --fixed".to_owned(),
    };
    // The flag alone would not be enough where something else is in the way too.
    let flag = |refusal: &&Refusal| matches!(refusal, Refusal::NotRemovable { .. });
    let first = refusals.iter().find(|refusal| !flag(refusal)).or_else(|| refusals.first());
    first.map_or_else(|| "yes".to_owned(), reason)
}

/// What a device holds: `vfat "BOOT"`.
fn content(content: &Content) -> Option<String> {
    match (&content.kind, &content.label) {
        (Some(kind), Some(label)) => Some(format!("{kind} \"{label}\"")),
        (Some(kind), None) => Some(kind.clone()),
        (None, _) => None,
    }
}

fn on_it(disk: &Disk) -> String {
    let mut parts: Vec<_> = content(&disk.content).into_iter().collect();
    let of_partitions = disk.partitions.iter().filter_map(|part| content(&part.content));
    parts.extend(of_partitions);
    let known = !parts.is_empty();
    if !known {
        let table =
            disk.content.table.map(|table| format!("{}, nothing known in it", table.name()));
        let unread = disk.content.unreadable.as_ref().map(|_| "not readable".to_owned());
        parts.push(table.or(unread).unwrap_or_else(|| "-".to_owned()));
    }
    // Long ones would push everything else off the terminal: three tell enough.
    let more = parts.len().saturating_sub(3);
    parts.truncate(3);
    if more > 0 {
        parts.push(format!("{more} more"));
    }
    let mut text = parts.join(", ");
    let mounted = |used: &Used| match used {
        Used::Mounted { at: Some(at) } => Some(at.display().to_string()),
        _ => None,
    };
    let mut places = disk.uses.iter().filter_map(|one| mounted(&one.used));
    if let Some(place) = places.next() {
        let joined = if known { " on" } else { ", mounted on" };
        text = format!("{text}{joined} {place}");
        let more = places.count();
        if more > 0 {
            text = format!("{text} and {more} more");
        }
    }
    text
}

/// What the disk is and what will be lost on it, one thing a line, for the question before writing.
pub fn lost(disk: &Disk) -> String {
    let mut text = format!(
        "{}: {}, {}, {} ({} bytes)\n",
        disk.name,
        disk.bus.name(),
        disk.told(),
        size(disk.size),
        disk.size
    );
    if let Some(id) = &disk.id {
        text += &format!("  id {id}\n");
    }
    let mut things = Vec::new();
    if let Some(what) = content(&disk.content) {
        things.push(format!("  the whole disk: {what}\n"));
    }
    for part in &disk.partitions {
        let what = content(&part.content).unwrap_or_else(|| "nothing known".to_owned());
        things.push(format!("  partition {}: {what}, {}\n", part.number, size(part.size)));
    }
    for one in &disk.uses {
        things.push(format!("  {} {}\n", one.device.display(), told(&one.used)));
    }
    let unreadable = &disk.content.unreadable;
    match (things.as_slice(), disk.content.table, unreadable) {
        ([], _, Some(why)) => {
            text + &format!("Everything on it will be lost; it cannot be looked into: {why}\n")
        }
        ([], Some(table), None) => {
            text + &format!("Will be lost: a partition table ({})\n", table.name())
        }
        ([], None, None) => text + "Nothing known is on it; whatever is will be lost\n",
        _ => text + "Will be lost:\n" + &things.concat(),
    }
}
