//! Files and folders that two parts must agree on: on the key, on the pool and on a running machine.

/// Empty file in the key's root that tells a key from any other disk (C§1.4).
pub const KEY_MARKER: &str = ".joyliveusb";
/// The manifest of the key, in its root.
pub const KEY_MANIFEST: &str = "manifest.json";
/// The configuration, on the key and below [`USBKEY`]; absent until first boot has asked (C§1.10).
pub const CONFIG: &str = "config";
/// Static defaults that are read before [`CONFIG`] (C§1.6).
pub const CONFIG_GENERIC: &str = "config.inc/generic";
/// Public keys that may log in as root (C§1.5).
pub const AUTHORIZED_KEYS: &str = "config.inc/root.authorized_keys";
/// Folder of the key that never leaves it (C§1.3).
pub const KEY_PRIVATE: &str = "private";
/// Answers to the questions of first boot (C§1.10).
pub const ANSWERS: &str = "private/answers.json";
/// GRUB's environment block, which its menu reads.
pub const GRUB_ENVIRONMENT: &str = "boot/grub/grubenv";
/// What the illumos loader reads after `boot/loader.conf`.
pub const LOADER_CONF_LOCAL: &str = "boot/loader.conf.local";
/// What first boot had begun before there was a pool to write it to.
pub const KEY_SETUP_STATE: &str = "private/setup.json";
/// The headnode's software, an archive that the loader lays over the platform.
pub const BUNDLE_HEADNODE: &str = "bundle/headnode.cpio.zst";
/// A compute node's software, an archive that iPXE lays over the platform.
pub const BUNDLE_NODE: &str = "bundle/node.cpio.zst";
/// Folder of platform images, on the key (names in lower case) and below [`USBKEY`].
pub const PLATFORMS: &str = "os";
/// Folder of iPXE's binaries.
pub const FIRMWARE_IPXE: &str = "firmware/ipxe";

/// Where the key is mounted while first boot uses it (C§1.2).
pub const KEY_MOUNT: &str = "/mnt/usbkey";
/// Where the parts of a key are that cannot be written to: the medium, and what changed.
pub const KEY_BELOW: &str = "/run/headnode-key";
/// The key of a headnode that boots from the network: its whole tree, an archive of its own beside
/// the platform (C§1.4, `triton_installer=ipxe`).
pub const KEY_IN_RAM: &str = "/headnode-key";
/// The key's copy on the pool (C§1.3).
pub const USBKEY: &str = "/usbkey";
/// The headnode's configuration once the pool is there (C§1.6).
pub const USBKEY_CONFIG: &str = "/usbkey/config";
/// A compute node's configuration (C§1.6).
pub const NODE_CONFIG: &str = "/opt/smartdc/config/node.config";
/// URL path of [`NODE_CONFIG`] on the booter (C§1.8), also its place below [`USBKEY`].
pub const EXTRA_NODE_CONFIG: &str = "extra/joysetup/node.config";
/// URL path of root's public keys on the booter, also its place below [`USBKEY`].
pub const EXTRA_AUTHORIZED_KEYS: &str = "extra/joysetup/root.authorized_keys";
/// URL path of the compute node's bundle on the booter, also its place below [`USBKEY`].
pub const EXTRA_BUNDLE_NODE: &str = "extra/agents/node.cpio.zst";
/// How far the machine's setup is (C§3.1); mode 0400.
pub const SETUP_STATE: &str = "/var/lib/setup.json";
/// Marks the pool that the system lives on; below the pool's mount point (C§1.3).
pub const SYSTEM_POOL_MARKER: &str = ".system_pool";
/// The name of the system pool (C§1.2).
pub const SYSTEM_POOL: &str = "zones";
/// Events of the setup, JSON lines of [`crate::event::Event`].
pub const SETUP_LOG: &str = "/var/log/sdc-setup.jsonl";
/// The booter's leases and cached boot parameters.
pub const BOOTER_STATE: &str = "/var/lib/sdc-booter";
/// The control plane's database.
pub const CONTROL_DB: &str = "/var/lib/sdc-control/control.db";
/// Property on the pool's `var` dataset that holds the server's UUID (C§5.5).
pub const UUID_PROPERTY: &str = "org.smartos:server_uuid";
