//! First boot and every later boot of a headnode, as a list of named steps.
//!
//! Each step may be repeated and looks at what is really there: a power cut at any moment and
//! another boot end in the same finished state. What the steps do to the machine goes through
//! [`machine::Machine`], so that a test can let it die after every single effect.

pub mod check;
pub mod console;
pub mod machine;
pub mod real;
pub mod record;
pub mod run;
pub mod steps;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
