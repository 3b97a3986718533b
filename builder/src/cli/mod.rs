//! The verbs of `headnode`, one file each: arguments in, calls out, text or JSON out.

pub mod platform;
