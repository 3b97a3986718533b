//! The command line: one file per verb. Arguments in, calls out, text or JSON out.

pub mod lab;
