//! The harness of the behaviour tests: agents are really launched, by the programs that people
//! install, and what the kernel lets them do is seen from inside by `nemoclaw-probe`.
//!
//! `cargo xtask test` starts the tests, as root and as an ordinary user. It says where the programs
//! are with `NEMOCLAW_BIN_DIR` and where the policies are with `NEMOCLAW_POLICY_DIR`; without these,
//! a plain `cargo test -p nemoclaw-tests` takes them from the checkout.
//!
//! ```text
//! bench.rs     a workspace, its policy, an agent launched in it, and what it said
//! policy.rs    a policy's text, put together
//! host.rs      what an agent must not leave behind: processes, mounts, cgroups
//! terminal.rs  a terminal to start an agent from
//! upstream.rs  a model on loopback
//! skip.rs      tests that cannot run here
//! ```

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness that cannot do its work fails the test"
)]
#![forbid(unsafe_code)]

mod bench;
pub mod host;
mod policy;
mod skip;
mod terminal;
mod upstream;

pub use bench::{Agent, Bench, Finished, Live, Try};
pub use policy::Policy;
pub use skip::{is_root, skip};
pub use terminal::Terminal;
pub use upstream::{Request, Upstream};

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The directory with our programs.
///
/// # Panics
/// When the test program's own place is not known.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let directory = match std::env::var_os("NEMOCLAW_BIN_DIR") {
        Some(directory) => directory.into(),
        None => {
            // target/debug/deps/TEST
            let own = std::env::current_exe().expect("the test program has a place");
            own.ancestors()
                .nth(2)
                .expect("it lies in target/debug/deps")
                .to_owned()
        }
    };
    directory.join(name)
}

/// A policy that is shipped.
#[must_use]
pub fn shipped_policy(name: &str) -> PathBuf {
    let directory = std::env::var_os("NEMOCLAW_POLICY_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies")),
        PathBuf::from,
    );
    directory.join(name)
}

/// Waits until something holds; whether it came to hold in time.
#[must_use]
pub fn within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
