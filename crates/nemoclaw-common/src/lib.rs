//! The ABI between kernel programs and user space: what both sides must agree on to the bit.
//!
//! Everything here is plain data with a fixed representation, usable without `std`.
#![no_std]
#![forbid(unsafe_code)]

mod access;
mod limits;
mod rule;
mod verdict;

pub use access::FileAccess;
pub use limits::{MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_RULES};
pub use rule::RuleId;
pub use verdict::Verdict;
