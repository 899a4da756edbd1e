//! Tests that cannot run here.

use std::io::Write;

/// Whether this process may do everything.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that the calling test cannot run here for want of a mechanism; the test then returns.
///
/// The line goes past libtest's capture to whoever counts.
///
/// # Panics
/// When `NEMOCLAW_REQUIRE` names the mechanism: then the test has failed.
pub fn skip(mechanism: &str, reason: &str) {
    let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|word| word.trim() == mechanism),
        "`{mechanism}` is required by NEMOCLAW_REQUIRE, and {reason}"
    );
    let line = format!("SKIP {}: {reason}\n", name());
    // `eprint` would be captured.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `program::test`; libtest names each test's thread.
fn name() -> String {
    let program = std::env::current_exe().ok();
    let program = program.as_ref().and_then(|path| path.file_stem()?.to_str());
    let program = program
        .and_then(|name| name.rsplit_once('-'))
        .map_or("tests", |(name, _)| name);
    let thread = std::thread::current();
    format!("{program}::{}", thread.name().unwrap_or("?"))
}
