//! End-to-end tests: datacenters in QEMU. `ci/e2e` builds the images and runs them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod datacenter;
mod flash;
mod formats;
mod refusals;
mod spine;
