//! The ABI between kernel programs and user space.
#![no_std]
#![forbid(unsafe_code)]
