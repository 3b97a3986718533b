//! Disks on illumos: `diskinfo`.

use std::path::Path;
use std::time::Duration;

use super::{Disk, DiskError, Disks};
use crate::exec::{Call, Runner};

/// The disks of an illumos machine.
pub struct IllumosDisks<R> {
    runner: R,
}

impl<R: Runner> IllumosDisks<R> {
    /// Disks seen through the programs that `runner` runs.
    pub fn new(runner: R) -> Self {
        Self { runner }
    }
}

impl<R: Runner> Disks for IllumosDisks<R> {
    fn list(&self) -> Result<Vec<Disk>, DiskError> {
        let mut disks = parse_diskinfo(&self.runner.run(&Call::new("diskinfo", ["-Hp"]))?.stdout)?;
        for disk in &mut disks {
            // `fstyp` fails where it recognises nothing; a table is what `prtvtoc` can print.
            let raw = format!("/dev/rdsk/{}p0", disk.name);
            let found = self.runner.run(&Call::new("fstyp", [&raw]));
            disk.fs = found.ok().map(|out| out.stdout.trim().to_owned()).filter(|t| !t.is_empty());
            let slices =
                self.runner.run(&Call::new("prtvtoc", ["-h", &format!("/dev/rdsk/{}", disk.name)]));
            let sliced = slices.is_ok_and(|out| !out.stdout.trim().is_empty());
            disk.table = sliced.then(|| "label".to_owned());
            disk.zeroed = disk.fs.is_none() && disk.table.is_none();
        }
        Ok(disks)
    }

    /// `diskinfo` lists optical drives among the removable disks.
    fn optical(&self) -> Result<Vec<Disk>, DiskError> {
        Ok(Vec::new())
    }

    fn settle(&self, limit: Duration) {
        if let Err(error) = self.runner.run(&Call::new("devfsadm", ["-c", "disk"]).timeout(limit)) {
            tracing::warn!(%error, "waiting for devices");
        }
    }

    fn wipe(&self, disk: &Disk) -> Result<(), DiskError> {
        let device = format!("/dev/rdsk/{}", disk.name);
        self.runner.run(&Call::new("zpool", ["labelclear", "-f", &device]))?;
        Ok(())
    }
}

/// Reads the lines of `diskinfo -Hp`: type, disk, vendor, product, size, removable, SSD, separated
/// by tabs.
///
/// # Errors
/// Names the first line that is not of this form.
pub fn parse_diskinfo(text: &str) -> Result<Vec<Disk>, DiskError> {
    let mut disks = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let odd = || DiskError::Output {
            command: "diskinfo -Hp".to_owned(),
            reason: format!("{line:?}"),
        };
        let fields: Vec<_> = line.split('\t').map(str::trim).collect();
        let [kind, name, vendor, product, size, removable, ssd, ..] = fields[..] else {
            return Err(odd());
        };
        let model = format!("{vendor} {product}").trim().to_owned();
        disks.push(Disk {
            name: name.to_owned(),
            path: Path::new("/dev/dsk").join(name),
            model: (!model.is_empty() && model != "- -").then_some(model),
            size: size.parse().map_err(|_| odd())?,
            transport: (kind != "-" && kind != "UNKNOWN").then(|| kind.to_ascii_lowercase()),
            removable: removable == "yes",
            ssd: ssd == "yes",
            ..Disk::default()
        });
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diskinfo_is_read() {
        let text = "SCSI\tc1t0d0\tATA\tINTEL SSD\t480103981056\tno\tyes\nUSB\tc2t0d0\tKing\tston\t8000000000\tyes\tno\n";
        let disks = parse_diskinfo(text).unwrap();
        assert_eq!(disks.len(), 2);
        assert_eq!(disks[0].describe(), "c1t0d0 (ATA INTEL SSD, 480.1 GB)");
        assert!(disks[1].removable && disks[0].ssd);
        assert!(parse_diskinfo("SCSI\tc1").is_err());
    }
}
