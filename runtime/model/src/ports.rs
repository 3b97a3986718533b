//! Who listens where. All services share one admin address, so each API has a port of its own.

/// DHCP server, UDP (RFC 2131 §4.1).
pub const DHCP_SERVER: u16 = 67;
/// DHCP client, UDP (RFC 2131 §4.1).
pub const DHCP_CLIENT: u16 = 68;
/// TFTP, UDP (RFC 1350 §4).
pub const TFTP: u16 = 69;
/// The booter's HTTP server: kernels, archives, boot scripts, `/extra`. Triton's nginx has the same
/// port (C§4.3), so stock nodes find their files.
pub const BOOTER_HTTP: u16 = 80;
/// CNAPI: servers, boot parameters, platforms, tasks.
pub const CNAPI: u16 = 8010;
/// NAPI: networks, NICs, addresses.
pub const NAPI: u16 = 8011;
/// VMAPI: instances.
pub const VMAPI: u16 = 8012;
/// IMGAPI: images.
pub const IMGAPI: u16 = 8013;
/// PAPI: packages.
pub const PAPI: u16 = 8014;
/// FWAPI: firewall rules.
pub const FWAPI: u16 = 8015;
/// The agent on every machine (C§5.4).
pub const AGENT: u16 = 5309;
