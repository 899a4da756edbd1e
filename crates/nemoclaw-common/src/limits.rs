//! Sizes that kernel maps and user space both keep to.

/// The longest path, in bytes, without the terminating zero: `PATH_MAX` of `limits.h` less one.
pub const MAX_PATH_BYTES: usize = 4095;

/// The longest file name, in bytes: `NAME_MAX` of `limits.h`.
pub const MAX_NAME_BYTES: usize = 255;

/// The most rules that one policy may hold.
pub const MAX_RULES: usize = 16_384;
