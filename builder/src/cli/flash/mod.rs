//! `headnode flash`: writes an image to keys.

pub mod show;
