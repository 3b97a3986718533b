//! The booter: machines on the admin network boot from it over the network.
//!
//! DHCP gives firmware an address and the name of iPXE ([`dhcp`]), TFTP hands iPXE out ([`tftp`]),
//! iPXE comes back by DHCP and is sent to an HTTP URL ([`http`]), where a script is rendered for
//! each machine ([`script`]) from CNAPI's boot parameters or, when CNAPI is down, from the
//! booter's own cache ([`params`]). Without a headnode, one configuration file says what is booted
//! ([`alone`]).

pub mod admission;
pub mod alone;
pub mod api;
pub mod arp;
mod assigned;
mod booter;
pub mod caps;
mod clock;
mod cold;
pub mod dhcp;
mod durable;
mod error;
pub mod http;
mod ipv6;
pub mod leases;
mod limit;
pub mod live;
pub mod metrics;
pub mod net;
pub mod networks;
pub mod notify;
pub mod observe;
pub mod overhear;
pub mod params;
pub mod progress;
mod reload;
pub mod script;
pub mod settings;
pub mod tftp;
mod threads;

pub use booter::{Booter, Sockets};
pub use dhcp::{BIOS_PROGRAM, EFI_PROGRAM};
pub use error::Error;
