//! The one HTTP client of the control plane's parts: [`Cnapi`] for CNAPI (C§6.2), [`Napi`] for NAPI
//! (C§6.3) and [`Agent`] for the agent on every machine (C§5.4).
//!
//! All calls are plain HTTP with JSON on the admin network. Only idempotent calls are repeated when
//! the other side cannot be reached. The request id set by [`with_request_id`] goes along.
//!
//! ```no_run
//! # async fn example() -> Result<(), headnode_client::Error> {
//! use headnode_client::{Cnapi, ServerQuery};
//! let cnapi = Cnapi::new("http://10.99.99.7:8010")?;
//! let unsetup = ServerQuery { setup: Some(false), ..ServerQuery::default() };
//! for server in cnapi.list_servers(&unsetup).await? {
//!     println!("{} {}", server.uuid, server.hostname);
//! }
//! # Ok(())
//! # }
//! ```

mod agent;
mod booter;
mod cnapi;
mod error;
mod http;
mod napi;
mod types;

pub use agent::Agent;
pub use booter::{Booter, Verb};
pub use cnapi::{BootTarget, Cnapi};
pub use error::Error;
pub use http::{Timeouts, current_request_id, with_request_id};
pub use napi::{Aggregation, Napi, Nic, NicAddress, NicTag};
pub use types::{Ping, PlatformInfo, Platforms, ServerQuery, SetupParams};
