//! `sdc-storm`: a rack of simulated machines that boot from a booter, all at once.

fn main() {}
