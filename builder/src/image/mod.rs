//! Formats, each a stream of bytes made from data that is known beforehand.

pub mod cpio;
