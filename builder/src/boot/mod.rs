//! Boot loaders: which program goes where on an image, and how it is configured.

pub mod grub;
pub mod grub_iso;
pub mod illumos;
pub mod smartos;
