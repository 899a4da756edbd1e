//! What the program does instead of the tests: try a program, measure what a call costs.

use std::io;
use std::time::{Duration, Instant};

use nemoclaw_sandbox::seccomp::{Install, Profile, RefusalAction, install};

use crate::child::raw;
use crate::parent::Running;
use crate::{Outcome, filter, text};

/// Runs the program named on the command line and prints each refused call.
pub(crate) fn try_program(out: &mut dyn io::Write) -> Outcome {
    let mut running = Running::start(&std::env::args().nth(2).unwrap_or_default())?;
    running.deadline = Instant::now() + Duration::from_secs(600);
    running.go()?;
    while let Some(call) = running.next()? {
        text(
            running
                .listener
                .respond(call.id, running.filter.answer(call.syscall)),
        )?;
        let (name, arguments) = (call.name().unwrap_or("?"), call.arguments);
        text(writeln!(
            out,
            "refused: {name} {} {arguments:x?}",
            call.syscall
        ))?;
    }
    let status = text(running.child.wait())?;
    text(writeln!(out, "ended: {status}"))
}

/// Prints nanoseconds a call, the best of several rounds, without the filter and with it.
pub(crate) fn measure(out: &mut dyn io::Write) -> Outcome {
    let calls: [(&str, libc::c_long, [u64; 3]); 4] = [
        ("getppid (always allowed)", libc::SYS_getppid, [0; 3]),
        (
            "ioctl (one argument checked)",
            libc::SYS_ioctl,
            [u64::MAX, 0x5401, 0],
        ),
        (
            "socketpair (three arguments checked)",
            libc::SYS_socketpair,
            [1, 1, 0],
        ),
        ("prctl (searched in a list)", libc::SYS_prctl, [39, 0, 0]),
    ];
    let before = calls.map(|(_, number, arguments)| nanoseconds(number, arguments));
    let filter = filter(Profile::AGENT, RefusalAction::Notify)?;
    text(rustix::thread::set_no_new_privs(true))?;
    let start = Instant::now();
    let listener = text(install(&filter, Install::default()))?;
    let installed = start.elapsed();
    let after = calls.map(|(_, number, arguments)| nanoseconds(number, arguments));
    drop(listener);
    let (length, counts) = (filter.instructions.len(), filter.counts);
    text(writeln!(
        out,
        "{length} instructions, {counts:?}, installed in {installed:?}"
    ))?;
    for ((name, ..), (bare, filtered)) in calls.iter().zip(before.iter().zip(after)) {
        let ratio = filtered / bare;
        text(writeln!(
            out,
            "{name}: {bare:.1} ns bare, {filtered:.1} ns filtered, {ratio:.2} x"
        ))?;
    }
    Ok(())
}

fn nanoseconds(number: libc::c_long, arguments: [u64; 3]) -> f64 {
    const CALLS: u32 = 300_000;
    let round = || {
        let start = Instant::now();
        for _ in 0..CALLS {
            let _ = std::hint::black_box(raw(number, arguments));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
    };
    (0..9).map(|_| round()).fold(f64::INFINITY, f64::min)
}
