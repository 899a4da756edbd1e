//! The child's half of a launch: carries out the plan that comes through standard
//! input, and ends as process 1 of the sandbox.

fn main() {
    std::process::exit(nemoclaw_sandbox::init::main());
}
