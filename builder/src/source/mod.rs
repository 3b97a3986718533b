//! Where the parts of an image come from: platform tarballs, our own programs, boot firmware, and
//! what a build.spec names, fetched into a cache and pinned by a lock file.

pub mod cache;
pub mod checkout;
pub mod digest;
pub mod fetch;
pub mod firmware;
mod folder;
pub mod headers;
pub mod http;
mod images;
pub mod imgmanifest;
pub mod key;
pub mod listing;
pub mod lock;
pub mod locked;
pub mod packing;
pub mod plan;
pub mod platform;
pub mod programs;
pub mod resolve;
pub mod seen;
pub mod upkeep;
pub mod watch;
