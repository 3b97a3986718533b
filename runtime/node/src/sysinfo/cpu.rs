//! Processors, from `/proc/cpuinfo` and `/sys/devices/system/cpu`.

use std::collections::BTreeSet;
use std::path::Path;

use super::read;

/// What is known of a machine's processors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpus {
    /// Model name; empty when the kernel does not tell.
    pub model: String,
    /// Number of sockets.
    pub sockets: u32,
    /// Number of cores in all sockets.
    pub cores: u32,
    /// Number of hardware threads.
    pub threads: u32,
    /// Number of hardware threads that are on line.
    pub online: u32,
    /// `vmx` (Intel), `svm` (AMD) or `none`.
    pub virtualization: &'static str,
}

impl Cpus {
    /// Reads the processors of the machine whose root is `root`.
    pub fn read(root: &Path) -> Self {
        let mut cpus = Self::parse(&read(root, "proc/cpuinfo"));
        let listed =
            |name: &str| count_list(&read(root, &format!("sys/devices/system/cpu/{name}")));
        if let Some(present) = listed("present") {
            cpus.threads = cpus.threads.max(present);
        }
        cpus.online = listed("online").unwrap_or(cpus.online);
        cpus
    }

    /// Reads the text of `/proc/cpuinfo`, in the form of x86 or of ARM (which names neither model
    /// nor sockets).
    pub fn parse(cpuinfo: &str) -> Self {
        let mut model = String::new();
        let mut implementer = String::new();
        let mut sockets = BTreeSet::new();
        let mut cores = BTreeSet::new();
        let mut threads = 0;
        let mut virtualization = "none";
        let (mut socket, mut core) = (None, None);
        // The blank line at the end closes the last processor.
        for line in cpuinfo.lines().chain([""]) {
            let Some((key, value)) = line.split_once(':') else {
                if line.trim().is_empty() && core.is_some() {
                    cores.insert((socket.take(), core.take()));
                }
                continue;
            };
            let value = value.trim();
            match key.trim() {
                "processor" => threads += 1,
                "physical id" => {
                    socket = value.parse::<u32>().ok();
                    sockets.extend(socket);
                }
                "core id" => core = value.parse::<u32>().ok(),
                "model name" | "Model" | "cpu model" if model.is_empty() => {
                    model = value.split_whitespace().collect::<Vec<_>>().join(" ");
                }
                "CPU implementer" if implementer.is_empty() => value.clone_into(&mut implementer),
                "flags" | "Features" => {
                    for flag in value.split_whitespace() {
                        match flag {
                            "vmx" => virtualization = "vmx",
                            "svm" => virtualization = "svm",
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if model.is_empty() && !implementer.is_empty() {
            model = format!("ARM implementer {implementer}");
        }
        let at_least_one = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).max(1);
        Self {
            model,
            sockets: at_least_one(sockets.len()),
            // Virtual machines may name no cores: then every thread is one.
            cores: if cores.is_empty() { threads.max(1) } else { at_least_one(cores.len()) },
            threads: threads.max(1),
            online: threads.max(1),
            virtualization,
        }
    }
}

/// How many processors a list such as `0-3,8` names; `None` when it is no list.
pub(super) fn count_list(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    text.split(',').try_fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn x86(sockets: u32, cores: u32, threads: u32, flags: &str) -> String {
        let mut text = String::new();
        let mut number = 0;
        for thread in 0..threads {
            let _ = thread;
            for socket in 0..sockets {
                for core in 0..cores {
                    text += &format!(
                        "processor\t: {number}\nmodel name\t: Xeon(R)  CPU   E5\nphysical id\t: {socket}\n\
                         core id\t\t: {core}\nflags\t\t: fpu {flags} sse\n\n"
                    );
                    number += 1;
                }
            }
        }
        text
    }

    #[test]
    fn sockets_cores_and_threads_are_told_apart() {
        let cpus = Cpus::parse(&x86(2, 8, 2, "vmx"));
        let expected = Cpus {
            model: "Xeon(R) CPU E5".to_owned(),
            sockets: 2,
            cores: 16,
            threads: 32,
            online: 32,
            virtualization: "vmx",
        };
        assert_eq!(cpus, expected);
        assert_eq!(Cpus::parse(&x86(1, 1, 1, "svm")).virtualization, "svm");
    }

    #[test]
    fn cpuinfo_without_topology_still_counts() {
        let arm =
            "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\n\nprocessor\t: 1\n\n";
        let cpus = Cpus::parse(arm);
        assert_eq!((cpus.sockets, cpus.cores, cpus.threads), (1, 2, 2));
        assert_eq!(cpus.model, "ARM implementer 0x41");
        assert_eq!(cpus.virtualization, "none");
        assert_eq!(Cpus::parse("").threads, 1);
    }

    #[test]
    fn offline_processors_count_in_total_only() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/devices/system/cpu");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/cpuinfo"), x86(1, 2, 1, "")).unwrap();
        std::fs::write(folder.join("present"), "0-3\n").unwrap();
        std::fs::write(folder.join("online"), "0,2\n").unwrap();
        let cpus = Cpus::read(root.path());
        assert_eq!((cpus.threads, cpus.online), (4, 2));
    }

    #[test]
    fn lists_are_counted() {
        assert_eq!(count_list("0-3,8\n"), Some(5));
        assert_eq!(count_list("0"), Some(1));
        for bad in ["", "3-1", "a", "0-4294967295"] {
            assert_eq!(count_list(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            drop(Cpus::parse(&text));
            let _ = count_list(&text);
        }

        #[test]
        fn no_line_of_the_right_shape_panics(lines in proptest::collection::vec("(processor|physical id|core id|flags|model name)\t*: ?[ -~]{0,12}|", 0..40)) {
            let cpus = Cpus::parse(&lines.join("\n"));
            prop_assert!(cpus.cores >= 1 && cpus.sockets >= 1 && cpus.threads >= 1);
        }
    }
}
