//! The jailed worker behind `inference.local`; started by the supervisor, with the control channel as
//! its standard input.
#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads it, the exit status still tells.
            let _ = writeln!(std::io::stderr(), "nemoclaw-egress: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> anyhow::Result<()> {
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("could not duplicate standard input")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context("could not start the reactor")?;
    let ended = runtime.block_on(nemoclaw_egress::worker::run(control));
    // A name look-up may still be running on another thread; it is not waited for.
    runtime.shutdown_background();
    Ok(ended?)
}
