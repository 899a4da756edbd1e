//! The child's half of a launch: carries out the plan that comes through standard input, and ends as
//! process 1 of the sandbox. With `--probe` it tries what the host offers instead, and prints that.

use nemoclaw_sandbox::{init, probe};

fn main() {
    let probes = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "--probe");
    std::process::exit(if probes { probe::main() } else { init::main() });
}
