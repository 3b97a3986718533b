//! Which boot program a machine gets, by its architecture (option 93; IANA's registry "Processor
//! Architecture Types", RFC 5970 §3.3).

use std::collections::BTreeMap;

/// iPXE for BIOS; uses the NIC through the firmware's UNDI.
pub const BIOS: &str = "undionly.kpxe";
/// iPXE for 64-bit UEFI; uses the NIC through the firmware's SNP.
pub const EFI: &str = "snponly.efi";
/// Longest name of a program: it fits the 128 bytes of a DHCP message's field, with a NUL.
pub(super) const LONGEST_NAME: usize = 127;

/// What a machine of an architecture is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program<'a> {
    /// A file in the folder of boot programs: by TFTP, or by HTTP below `/firmware/`.
    File(&'a str),
    /// None; why.
    Nothing(&'static str),
}

/// How the firmware of an architecture's number fetches its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Tftp,
    Http,
}

const NO_IA32: Program<'_> = Program::Nothing("there is no iPXE for 32-bit UEFI here");
const NO_ARM: Program<'_> = Program::Nothing("there is no iPXE for ARM here");
const NO_RISCV: Program<'_> = Program::Nothing("there is no iPXE for RISC-V here");
const NO_LOONG: Program<'_> = Program::Nothing("there is no iPXE for LoongArch here");
const NO_OTHER: Program<'_> = Program::Nothing("there is no boot program for it");
const OLD: Program<'_> = Program::Nothing("nobody makes such machines any more");

/// Number, name, how it boots, program: the 42 rows of IANA's registry "Processor Architecture Types"
/// (`dhcpv6-parameters`, RFC 5970 §3.3). The registry's own page could not be had; the rows were
/// compared with others' copies of it, which agree:
///
/// | rows  | source |
/// |-------|--------|
/// | 0–9   | RFC 4578 §2.1; 7 and 9 as its erratum 4624 and the registry have them, and iPXE (`ipxe/dhcp.h`) |
/// | 10–24 | the Go package `insomniacslk/dhcp`, `iana/archtype.go`; 10, 11, 15–19 EDK II too, `IndustryStandard/Dhcp.h` |
/// | 25–30 | the same two |
/// | 31–36 | `iana/archtype.go` |
/// | 37–40 | EDK II, `IndustryStandard/Dhcp.h` (0x25 to 0x28); OpenWrt's LuCI, list of client architectures |
/// | 41    | LuCI ("ARM rpiboot"); Raspberry Pi's documentation (0x29) |
const TABLE: [(u16, &str, By, Program<'_>); 42] = [
    (0, "x86 BIOS", By::Tftp, Program::File(BIOS)),
    (1, "NEC PC-98", By::Tftp, OLD),
    (2, "Itanium UEFI", By::Tftp, OLD),
    (3, "DEC Alpha", By::Tftp, OLD),
    (4, "Arc x86", By::Tftp, OLD),
    (5, "Intel Lean Client", By::Tftp, OLD),
    (6, "x86 UEFI, 32 bits", By::Tftp, NO_IA32),
    (7, "x86-64 UEFI", By::Tftp, Program::File(EFI)),
    (8, "XScale UEFI", By::Tftp, OLD),
    // EFI byte code; RFC 4578 gave the number to x86-64, and some firmware sends it for that.
    (9, "x86-64 UEFI (as byte code)", By::Tftp, Program::File(EFI)),
    (10, "ARM UEFI, 32 bits", By::Tftp, NO_ARM),
    (11, "ARM UEFI, 64 bits", By::Tftp, NO_ARM),
    (12, "PowerPC Open Firmware", By::Tftp, NO_OTHER),
    (13, "PowerPC ePAPR", By::Tftp, NO_OTHER),
    (14, "POWER OPAL v3", By::Tftp, NO_OTHER),
    (15, "x86 UEFI HTTP, 32 bits", By::Http, NO_IA32),
    (16, "x86-64 UEFI HTTP", By::Http, Program::File(EFI)),
    (17, "x86-64 UEFI HTTP (as byte code)", By::Http, Program::File(EFI)),
    (18, "ARM UEFI HTTP, 32 bits", By::Http, NO_ARM),
    (19, "ARM UEFI HTTP, 64 bits", By::Http, NO_ARM),
    (20, "x86 BIOS HTTP", By::Http, Program::File(BIOS)),
    (21, "ARM U-Boot, 32 bits", By::Tftp, NO_ARM),
    (22, "ARM U-Boot, 64 bits", By::Tftp, NO_ARM),
    (23, "ARM U-Boot HTTP, 32 bits", By::Http, NO_ARM),
    (24, "ARM U-Boot HTTP, 64 bits", By::Http, NO_ARM),
    (25, "RISC-V UEFI, 32 bits", By::Tftp, NO_RISCV),
    (26, "RISC-V UEFI HTTP, 32 bits", By::Http, NO_RISCV),
    (27, "RISC-V UEFI, 64 bits", By::Tftp, NO_RISCV),
    (28, "RISC-V UEFI HTTP, 64 bits", By::Http, NO_RISCV),
    (29, "RISC-V UEFI, 128 bits", By::Tftp, NO_RISCV),
    (30, "RISC-V UEFI HTTP, 128 bits", By::Http, NO_RISCV),
    (31, "s390 basic", By::Tftp, NO_OTHER),
    (32, "s390 extended", By::Tftp, NO_OTHER),
    (33, "MIPS UEFI, 32 bits", By::Tftp, NO_OTHER),
    (34, "MIPS UEFI, 64 bits", By::Tftp, NO_OTHER),
    (35, "Sunway UEFI, 32 bits", By::Tftp, NO_OTHER),
    (36, "Sunway UEFI, 64 bits", By::Tftp, NO_OTHER),
    (37, "LoongArch UEFI, 32 bits", By::Tftp, NO_LOONG),
    (38, "LoongArch UEFI HTTP, 32 bits", By::Http, NO_LOONG),
    (39, "LoongArch UEFI, 64 bits", By::Tftp, NO_LOONG),
    (40, "LoongArch UEFI HTTP, 64 bits", By::Http, NO_LOONG),
    (41, "ARM Raspberry Pi boot", By::Tftp, NO_ARM),
];

/// The program for a machine, and the name of its architecture. Of several architectures the
/// first decides that boots as the machine does (`http` or not) and that there is a program for.
/// A machine that tells none is an old BIOS. `instead` holds programs by number.
pub fn program<'a>(
    archs: &[u16],
    http: bool,
    instead: &'a BTreeMap<String, String>,
) -> (&'static str, Program<'a>) {
    let archs = if archs.is_empty() { &[0] } else { archs };
    let wanted = if http { By::Http } else { By::Tftp };
    let mut first = None;
    let mut other_way = None;
    for arch in archs {
        let row = TABLE.iter().find(|(number, ..)| number == arch);
        let told = instead.get(&arch.to_string()).map(|file| Program::File(file));
        let (name, by, built_in) = match row {
            Some((_, name, by, program)) => (*name, Some(*by), *program),
            None => ("unknown", None, Program::Nothing("the architecture is not known")),
        };
        let program = told.unwrap_or(built_in);
        let found = (name, program);
        match program {
            Program::File(_) if by.is_none_or(|by| by == wanted) => return found,
            // Some firmware tells the same number for both ways.
            Program::File(_) => _ = other_way.get_or_insert(found),
            Program::Nothing(_) => {}
        }
        first.get_or_insert(found);
    }
    let none = ("unknown", Program::Nothing("no architecture was told"));
    other_way.or(first).unwrap_or(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(archs: &[u16], http: bool) -> Program<'static> {
        match program(archs, http, &BTreeMap::new()).1 {
            Program::File(BIOS) => Program::File(BIOS),
            Program::File(EFI) => Program::File(EFI),
            Program::File(other) => panic!("{other}"),
            Program::Nothing(why) => Program::Nothing(why),
        }
    }

    #[test]
    fn the_table_has_each_number_of_the_registry_once_and_in_order() {
        for (at, (number, ..)) in TABLE.iter().enumerate() {
            assert_eq!(at, usize::from(*number));
        }
    }

    #[test]
    fn each_architecture_gets_its_program() {
        for (archs, http, file) in [
            (&[][..], false, BIOS),
            (&[0], false, BIOS),
            (&[7], false, EFI),
            (&[9], false, EFI),
            (&[16, 7], false, EFI),
            (&[16], true, EFI),
            (&[7], true, EFI),
            (&[0, 16], true, EFI),
            (&[11, 7], false, EFI),
            (&[20], true, BIOS),
        ] {
            assert_eq!(plain(archs, http), Program::File(file), "{archs:?}");
        }
        for none in [6, 11, 15, 27, 41, 42, 999] {
            assert!(matches!(plain(&[none], false), Program::Nothing(_)), "{none}");
        }
    }

    #[test]
    fn the_operators_program_goes_first() {
        let told = [("11", "arm64/a.efi"), ("7", "b.efi"), ("999", "c")];
        let told = told.map(|(n, f)| (n.to_owned(), f.to_owned())).into();
        for (arch, file) in [(11, "arm64/a.efi"), (7, "b.efi"), (999, "c"), (0, BIOS)] {
            assert_eq!(program(&[arch], false, &told).1, Program::File(file));
        }
    }
}
