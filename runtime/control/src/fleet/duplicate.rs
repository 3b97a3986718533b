//! Two machines with one UUID: makers have shipped boards with the same SMBIOS UUID, and Triton
//! then overwrites one server's record with the other's (triton#215, C§5.5).

use headnode_model::net::MacAddr;
use uuid::Uuid;

/// What to say when a machine wants a UUID whose living owner has other NICs; `None` when the two
/// share a NIC, or one of them has none to compare.
pub(super) fn check(
    uuid: Uuid,
    known: (&[MacAddr], &[MacAddr], &str),
    new: (&[MacAddr], &[MacAddr], &str),
) -> Option<String> {
    let (known_macs, known_admin, known_name) = known;
    let (new_macs, new_admin, new_name) = new;
    if known_macs.is_empty() || new_macs.is_empty() {
        return None;
    }
    if new_macs.iter().any(|mac| known_macs.contains(mac)) {
        return None;
    }
    let show = |macs: &[MacAddr], all: &[MacAddr]| {
        let macs = if macs.is_empty() { all } else { macs };
        macs.iter().map(MacAddr::to_string).collect::<Vec<_>>().join(", ")
    };
    Some(format!(
        "UUID {uuid} belongs to {known_name} (NIC {known}), which is running; {new_name} (NIC {new}) \
         has the same UUID in its SMBIOS. Give the second machine another one: boot it with the \
         kernel parameter override_uuid=<new UUID>, or correct its SMBIOS. If it is the same \
         machine with all its NICs changed, power the old one off and wait 15 seconds.",
        known = show(known_admin, known_macs),
        new = show(new_admin, new_macs),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_machines_without_a_common_nic_are_two() {
        let (a, b, c) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]), MacAddr([9; 6]));
        let uuid = Uuid::nil();
        assert_eq!(check(uuid, (&[a, b], &[a], "x"), (&[b, c], &[c], "y")), None);
        assert_eq!(check(uuid, (&[], &[], "x"), (&[c], &[c], "y")), None);
        let text = check(uuid, (&[a, b], &[a], "x"), (&[c], &[], "y")).unwrap();
        assert!(text.contains("x (NIC 02:00:00:00:00:01)"), "{text}");
        assert!(text.contains("y (NIC 09:09:09:09:09:09)"), "{text}");
        assert!(text.contains("override_uuid="), "{text}");
    }
}
