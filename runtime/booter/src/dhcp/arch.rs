//! Which boot program a machine gets, by its architecture (option 93; IANA's registry of processor
//! architecture types, RFC 5970).

/// What a machine of an architecture is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// A file in the folder of iPXE's binaries.
    File(&'static str),
    /// None; why.
    Nothing(&'static str),
}

/// iPXE for BIOS; uses the NIC through the firmware's UNDI.
pub const BIOS: &str = "undionly.kpxe";
/// iPXE for 64-bit UEFI; uses the NIC through the firmware's SNP.
pub const EFI: &str = "snponly.efi";

const TABLE: [(u16, &str, Program); 9] = [
    (0, "x86 BIOS", Program::File(BIOS)),
    (6, "x86 UEFI, 32 bits", Program::Nothing("there is no iPXE for 32-bit UEFI here")),
    (7, "x86-64 UEFI", Program::File(EFI)),
    // The number that RFC 4578 gave to x86-64, and that some firmware sends.
    (9, "x86-64 UEFI", Program::File(EFI)),
    (10, "ARM UEFI, 32 bits", Program::Nothing("there is no platform image for ARM")),
    (11, "ARM UEFI, 64 bits", Program::Nothing("there is no platform image for ARM")),
    (15, "x86 UEFI HTTP, 32 bits", Program::Nothing("UEFI HTTP boot is not served, PXE is")),
    (16, "x86-64 UEFI HTTP", Program::Nothing("UEFI HTTP boot is not served, PXE is")),
    (20, "x86 BIOS HTTP", Program::Nothing("HTTP boot is not served, PXE is")),
];

/// The program for a machine, and the name of its architecture. The first architecture that there
/// is a program for decides; a machine that tells none is an old BIOS.
pub fn program(archs: &[u16]) -> (&'static str, Program) {
    let archs = if archs.is_empty() { &[0] } else { archs };
    let known = |arch: &u16| {
        let found = TABLE.iter().find(|(number, ..)| number == arch);
        found.map_or(("unknown", Program::Nothing("the architecture is not known")), |row| {
            (row.1, row.2)
        })
    };
    let mut rows = archs.iter().map(known);
    let first = rows.next().unwrap_or(("unknown", Program::Nothing("no architecture was told")));
    match first.1 {
        Program::File(_) => first,
        Program::Nothing(_) => {
            rows.find(|(_, program)| matches!(program, Program::File(_))).unwrap_or(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_gets_its_program() {
        assert_eq!(program(&[]).1, Program::File(BIOS));
        assert_eq!(program(&[0]).1, Program::File(BIOS));
        assert_eq!(program(&[7]).1, Program::File(EFI));
        assert_eq!(program(&[9]).1, Program::File(EFI));
        assert_eq!(program(&[16, 7]).1, Program::File(EFI));
        for none in [6, 11, 16, 999] {
            assert!(matches!(program(&[none]).1, Program::Nothing(_)), "{none}");
        }
    }
}
