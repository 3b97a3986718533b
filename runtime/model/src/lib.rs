//! The words of the headnode's domain: types that several parts share, with their validation and
//! their text forms. No input or output happens here.

pub mod answers;
pub mod api;
pub mod boot;
pub mod booter;
pub mod config;
pub mod event;
pub mod manifest;
pub mod net;
pub mod password;
pub mod paths;
pub mod personal;
pub mod ports;
pub mod questions;
pub mod server;
pub mod setup_state;
pub mod stamp;
pub mod sysinfo;
pub mod task;
pub mod timing;
