//! Who a machine says it is: SMBIOS' texts, and the UUID that the control plane knows it by.
//!
//! Firmware often lies: boards leave the factory with an empty, an all-ones or a copied UUID. Such
//! a machine gets a UUID of its own, made from the MAC of its admin NIC, and a warning.

use std::fmt;
use std::path::Path;

use headnode_model::net::MacAddr;
use uuid::Uuid;

/// UUIDs that firmware makers ship unchanged in many machines.
const KNOWN_COPIES: [Uuid; 4] = [
    // AMI's default.
    Uuid::from_u128(0x0300_0200_0400_0500_0006_0007_0008_0009),
    Uuid::from_u128(0x0002_0003_0004_0005_0006_0007_0008_0009),
    // Counting bytes, seen on boards whose maker never filled it in.
    Uuid::from_u128(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f),
    Uuid::from_u128(0x1234_5678_1234_5678_9012_3456_7890_abcd),
];

/// Namespace of UUIDs that are made from a MAC (RFC 9562 §5.5); an arbitrary constant that must
/// never change, or machines would change their identity.
const MAC_NAMESPACE: Uuid = Uuid::from_u128(0x8f1c_2d0e_6b5a_4c39_9a7e_35d1_40c2_b6f8);

/// What SMBIOS' system information (type 1) says; empty texts where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Smbios {
    /// The UUID as the kernel prints it, unjudged.
    pub uuid: String,
    /// Maker of the machine.
    pub manufacturer: String,
    /// Model.
    pub product: String,
    /// Serial number.
    pub serial: String,
    /// Stock-keeping number.
    pub sku: String,
    /// Hardware version.
    pub version: String,
    /// Hardware family.
    pub family: String,
}

impl Smbios {
    /// Reads what the kernel shows below `<root>/sys/class/dmi/id`. A machine without SMBIOS, or a
    /// caller that may not read a value (UUID and serial are root's), gives empty texts.
    pub fn read(root: &Path) -> Self {
        let folder = root.join("sys/class/dmi/id");
        let text = |name: &str| {
            let bytes = std::fs::read(folder.join(name)).unwrap_or_default();
            clean(&String::from_utf8_lossy(&bytes))
        };
        Self {
            uuid: text("product_uuid"),
            manufacturer: text("sys_vendor"),
            product: text("product_name"),
            serial: text("product_serial"),
            sku: text("product_sku"),
            version: text("product_version"),
            family: text("product_family"),
        }
    }
}

/// One line, without the control characters and padding that firmware leaves in its texts.
fn clean(text: &str) -> String {
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a UUID from SMBIOS cannot be a machine's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UuidFault {
    /// There is none.
    #[error("SMBIOS has no system UUID")]
    Missing,
    /// It is not of the form of a UUID.
    #[error("the SMBIOS system UUID {0:?} is not a UUID")]
    Malformed(String),
    /// All bytes are alike: never filled in (SMBIOS 3.x §7.2.1 gives 0 and F that meaning).
    #[error("the SMBIOS system UUID {0} was never filled in by the maker")]
    Blank(Uuid),
    /// A default that many machines carry.
    #[error("the SMBIOS system UUID {0} is a firmware default that many machines share")]
    Copied(Uuid),
}

/// The UUID in SMBIOS' text, when it can be an identity.
///
/// # Errors
/// Why it cannot.
pub fn judge_uuid(text: &str) -> Result<Uuid, UuidFault> {
    if text.is_empty() {
        return Err(UuidFault::Missing);
    }
    let uuid = Uuid::parse_str(text).map_err(|_| UuidFault::Malformed(text.to_owned()))?;
    let bytes = uuid.as_bytes();
    if bytes.iter().all(|byte| *byte == bytes[0]) {
        return Err(UuidFault::Blank(uuid));
    }
    if KNOWN_COPIES.contains(&uuid) {
        return Err(UuidFault::Copied(uuid));
    }
    Ok(uuid)
}

/// The UUID of a machine whose SMBIOS has none: version 5, from the MAC of its admin NIC.
pub fn uuid_of_mac(mac: MacAddr) -> Uuid {
    Uuid::new_v5(&MAC_NAMESPACE, mac.to_string().as_bytes())
}

/// Where an identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UuidSource {
    /// The kernel parameter `override_uuid`.
    Override,
    /// SMBIOS.
    Smbios,
    /// The property on the pool, from an earlier boot.
    Pool,
    /// The MAC of the admin NIC.
    Mac,
}

impl fmt::Display for UuidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Override => "kernel parameter override_uuid",
            Self::Smbios => "SMBIOS",
            Self::Pool => "property of the pool",
            Self::Mac => "MAC of the admin NIC",
        })
    }
}

/// A machine's identity and what an operator should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The UUID.
    pub uuid: Uuid,
    /// Where it comes from.
    pub source: UuidSource,
    /// What is odd, one line each.
    pub warnings: Vec<String>,
}

/// What a machine's identity may come from.
#[derive(Debug, Clone, Copy, Default)]
pub struct UuidSources<'a> {
    /// Value of the kernel parameter `override_uuid`.
    pub override_uuid: Option<&'a str>,
    /// SMBIOS' text.
    pub smbios: &'a str,
    /// What the pool's property says ([`headnode_model::paths::UUID_PROPERTY`]).
    pub pool: Option<Uuid>,
    /// MAC of the admin NIC.
    pub admin_mac: Option<MacAddr>,
}

/// A machine without any identity: no usable SMBIOS UUID, no pool and no admin NIC.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{fault}, and there is no admin NIC to make one from; give the kernel parameter override_uuid"
)]
pub struct NoIdentity {
    fault: UuidFault,
}

impl UuidSources<'_> {
    /// Decides: `override_uuid`, a usable UUID in SMBIOS, the pool's property, the admin MAC. The
    /// pool comes after SMBIOS so that disks moved to another machine do not carry the identity
    /// along, and before the MAC so that a changed NIC does not change it.
    ///
    /// # Errors
    /// [`NoIdentity`] when there is nothing to go by.
    pub fn decide(&self) -> Result<Identity, NoIdentity> {
        let mut warnings = Vec::new();
        match self.override_uuid.map(|text| (text, Uuid::parse_str(text))) {
            Some((_, Ok(uuid))) => {
                return Ok(Identity { uuid, source: UuidSource::Override, warnings });
            }
            Some((text, Err(_))) => {
                warnings
                    .push(format!("kernel parameter override_uuid={text} is not a UUID: ignored"));
            }
            None => {}
        }
        let fault = match judge_uuid(self.smbios) {
            Ok(uuid) => {
                if let Some(pool) = self.pool.filter(|pool| *pool != uuid) {
                    warnings.push(format!(
                        "the pool belonged to server {pool}, this machine is {uuid}: were its disks moved?"
                    ));
                }
                return Ok(Identity { uuid, source: UuidSource::Smbios, warnings });
            }
            Err(fault) => fault,
        };
        let (uuid, source) = match (self.pool, self.admin_mac) {
            (Some(uuid), _) => (uuid, UuidSource::Pool),
            (None, Some(mac)) => (uuid_of_mac(mac), UuidSource::Mac),
            (None, None) => return Err(NoIdentity { fault }),
        };
        warnings.push(format!("{fault}: using {uuid} ({source})"));
        Ok(Identity { uuid, source, warnings })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "564d9f3b-8c2e-4a11-b3d7-0123456789ab";

    #[test]
    fn uuids_that_many_machines_share_are_refused() {
        assert_eq!(judge_uuid(""), Err(UuidFault::Missing));
        assert!(matches!(judge_uuid("Not Settable"), Err(UuidFault::Malformed(_))));
        for blank in [
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "11111111-1111-1111-1111-111111111111",
        ] {
            assert!(matches!(judge_uuid(blank), Err(UuidFault::Blank(_))), "{blank}");
        }
        let ami = "03000200-0400-0500-0006-000700080009";
        assert!(matches!(judge_uuid(ami), Err(UuidFault::Copied(_))));
        assert!(judge_uuid(GOOD).is_ok());
    }

    #[test]
    fn the_order_of_sources_is_kept() {
        let mac = "52:54:00:00:00:01".parse().unwrap();
        let pool = Uuid::from_u128(7 << 64 | 1);
        let all = UuidSources {
            override_uuid: Some("4c4c4544-0044-4410-8031-b4c04f595031"),
            smbios: GOOD,
            pool: Some(pool),
            admin_mac: Some(mac),
        };
        assert_eq!(all.decide().unwrap().source, UuidSource::Override);
        let bad_override = UuidSources { override_uuid: Some("nope"), ..all }.decide().unwrap();
        assert_eq!(bad_override.source, UuidSource::Smbios);
        assert_eq!(bad_override.warnings.len(), 2, "{:?}", bad_override.warnings);
        let blank = UuidSources { override_uuid: None, smbios: "", ..all };
        assert_eq!(blank.decide().unwrap().uuid, pool);
        let fresh = UuidSources { pool: None, ..blank }.decide().unwrap();
        assert_eq!((fresh.uuid, fresh.source), (uuid_of_mac(mac), UuidSource::Mac));
        assert_eq!(fresh.uuid.get_version_num(), 5);
        assert!(fresh.warnings[0].contains("no system UUID"));
        let none = UuidSources { pool: None, admin_mac: None, ..blank }.decide().unwrap_err();
        assert!(none.to_string().contains("override_uuid"));
    }

    #[test]
    fn firmware_texts_are_cleaned() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("sys/class/dmi/id");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("sys_vendor"), b"  ACME\x01\tInc. \xff \n").unwrap();
        std::fs::write(folder.join("product_uuid"), format!("{}\n", GOOD.to_uppercase())).unwrap();
        let smbios = Smbios::read(root.path());
        assert_eq!(smbios.manufacturer, "ACME Inc. \u{fffd}");
        assert_eq!(judge_uuid(&smbios.uuid).unwrap().to_string(), GOOD);
        assert_eq!(smbios.serial, "");
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            drop(judge_uuid(&text));
            drop(clean(&text));
        }

        #[test]
        fn the_same_mac_is_always_the_same_machine(bytes: [u8; 6]) {
            prop_assert_eq!(uuid_of_mac(MacAddr(bytes)), uuid_of_mac(MacAddr(bytes)));
        }
    }
}
