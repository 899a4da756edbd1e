//! The worker as a program, between a supervisor, an agent and an upstream that are all the test's.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot be set up fails the test; clippy knows only functions marked as tests"
)]

mod harness;
mod model_socket;
mod refusals;
mod tls;
