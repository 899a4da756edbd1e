//! The jailed worker.
#![forbid(unsafe_code)]
fn main() {}
