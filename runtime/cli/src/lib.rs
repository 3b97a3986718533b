//! `sdc`: the operator's command on the headnode. It speaks to CNAPI over HTTP and knows nothing
//! that CNAPI does not tell.

pub mod cli;
mod cmd;
mod find;
mod follow;
mod outcome;
mod table;
