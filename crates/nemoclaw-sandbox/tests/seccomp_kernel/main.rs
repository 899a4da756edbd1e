//! The profiles on the running kernel: a child, which has one thread, installs the filter and tries
//! what it promises; this process holds the listener and answers.
//!
//! The program is its own child and so has no test harness. Instead of the tests, `measure` prints what
//! a call costs with and without the filter, and `try PROFILE PROGRAM ARGUMENT...` runs a program
//! under the profile `agent` or `egress` and prints what was refused.

mod child;
mod instead;
mod parent;

use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use nemoclaw_sandbox::seccomp::{
    Architecture, Errno, Event, Filter, Profile, RefusalAction, probe,
};

use child::REFUSED;
use parent::{PATIENCE, Running, command, finish, run};

type Outcome = Result<(), String>;

type Test = (&'static str, fn() -> Outcome);

const TESTS: [Test; 10] = [
    (
        "ordinary_programs_run_and_nothing_is_reported",
        ordinary_programs,
    ),
    ("clone3_is_said_not_to_exist_and_is_not_reported", clone3),
    (
        "refused_calls_are_reported_with_their_arguments_and_fail",
        refused_calls,
    ),
    (
        "a_caller_killed_while_it_waits_needs_no_answer",
        killed_caller,
    ),
    ("without_a_listener_refused_calls_still_fail", no_listener),
    ("an_x32_call_kills_the_process", x32),
    (
        "a_call_of_the_32_bit_architecture_kills_the_process",
        foreign,
    ),
    (
        "the_egress_profile_lets_threads_start_and_refuses_processes",
        egress,
    ),
    (
        "the_egress_profile_lets_a_program_start_and_resolve_a_name",
        egress_start,
    ),
    (
        "a_filter_that_reports_nothing_needs_no_listener",
        errno_only,
    ),
];
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    let result = match arguments.first().map(String::as_str) {
        Some("child") => child::run(arguments.get(1).map_or("", String::as_str)),
        Some("measure") => instead::measure(&mut out),
        Some("try") => instead::try_program(&mut out),
        Some("--list") => TESTS.iter().try_for_each(|(name, _)| {
            writeln!(out, "{name}: test").map_err(|error| error.to_string())
        }),
        first => run_all(
            first.filter(|word| !word.starts_with('-')).unwrap_or(""),
            &mut out,
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_all(wanted: &str, out: &mut dyn io::Write) -> Outcome {
    let support = probe();
    if !(support.filter && support.user_notification && support.listener) {
        let required = std::env::var("NEMOCLAW_REQUIRE").unwrap_or_default();
        let line = format!("seccomp tests skipped: this kernel offers {support:?}");
        if required.split(',').any(|word| word == "seccomp") {
            return Err(line);
        }
        return writeln!(out, "{line}").map_err(|error| error.to_string());
    }
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(wanted)) {
        let result = match test() {
            Ok(()) => "ok".to_owned(),
            Err(error) => {
                failed += 1;
                format!("FAILED\n    {error}")
            }
        };
        writeln!(out, "test {name} ... {result}").map_err(|error| error.to_string())?;
    }
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} failed"))
    }
}

fn ordinary_programs() -> Outcome {
    let report = run("ordinary")?;
    same("status", &report.status.code(), &Some(0))?;
    same("reported", &report.names(), &vec![])?;
    same(
        "output",
        &report.output,
        &"thread 7\nshell 12\npid ok\n".to_owned(),
    )
}

fn clone3() -> Outcome {
    let report = run("clone3")?;
    same("reported", &report.names(), &vec![])?;
    same(
        "output",
        &report.output,
        &format!("clone3 {}\n", libc::ENOSYS),
    )
}

fn refused_calls() -> Outcome {
    let report = run("refused")?;
    let expected: Vec<_> = REFUSED.iter().map(|(name, ..)| *name).collect();
    same("reported", &report.names(), &expected)?;
    let lines = REFUSED
        .iter()
        .map(|(name, _, _, errno)| format!("{name} {}\n", errno.raw_os_error()));
    same("output", &report.output, &lines.collect::<String>())?;
    for (notification, (name, _, arguments, _)) in report.notifications.iter().zip(REFUSED) {
        let seen = &notification.arguments[..arguments.len()];
        same(name, &seen, &arguments.as_slice())?;
        same("pid", &notification.pid, &report.pid)?;
        let architecture = Architecture::host().map(Architecture::audit_value);
        same(
            "architecture",
            &Some(notification.architecture),
            &architecture,
        )?;
    }
    Ok(())
}

fn killed_caller() -> Outcome {
    let mut running = Running::start("refused")?;
    same(
        "before anything happens",
        &text(running.listener.receive())?,
        &Event::Idle,
    )?;
    running.go()?;
    let Some(first) = running.next()? else {
        return Err("the child ended without a call".to_owned());
    };
    same(
        "waiting",
        &text(running.listener.is_waiting(first.id))?,
        &true,
    )?;
    text(running.child.kill())?;
    text(running.child.wait())?;
    same(
        "waiting after death",
        &text(running.listener.is_waiting(first.id))?,
        &false,
    )?;
    same(
        "answer after death",
        &text(running.listener.respond(first.id, Errno::PERM))?,
        &false,
    )?;
    same("end", &running.next()?.map(|call| call.id), &None)
}

fn no_listener() -> Outcome {
    let running = Running::start("unanswered")?;
    let Running {
        mut child,
        listener,
        mut socket,
        deadline,
        ..
    } = running;
    drop(listener);
    text(socket.write_all(b"g"))?;
    let (status, output) = finish(&mut child, deadline)?;
    same("status", &status.code(), &Some(0))?;
    same("output", &output, &format!("unshare {}\n", libc::ENOSYS))
}

fn x32() -> Outcome {
    if Architecture::host() != Some(Architecture::X86_64) {
        return Ok(());
    }
    let report = run("x32")?;
    same("reported", &report.names(), &vec![])?;
    same("signal", &report.status.signal(), &Some(libc::SIGSYS))?;
    same("output", &report.output, &String::new())
}

fn foreign() -> Outcome {
    if Architecture::host() != Some(Architecture::X86_64) {
        return Ok(());
    }
    let report = run("foreign")?;
    // A kernel without 32-bit calls answers the instruction itself with SIGSEGV.
    let ended = matches!(report.status.signal(), Some(libc::SIGSYS | libc::SIGSEGV));
    same("killed", &ended, &true)?;
    same("output", &report.output, &String::new())
}

fn egress() -> Outcome {
    let report = run("worker")?;
    same("status", &report.status.code(), &Some(0))?;
    let mut names = report.names();
    // The C library forks with clone, or with fork where that exists.
    names.retain(|name| !matches!(*name, "clone" | "fork" | "vfork"));
    same("reported besides fork", &names, &vec!["kill"])?;
    same(
        "a fork is reported",
        &(report.notifications.len() > 1),
        &true,
    )?;
    same(
        "output",
        &report.output,
        &"thread 7\nprocess refused\nkill 1\n".to_owned(),
    )
}

fn egress_start() -> Outcome {
    let report = run("egress")?;
    same("reported", &report.names(), &vec![])?;
    same("status", &report.status.code(), &Some(0))?;
    same("resolved", &report.output.contains("127.0.0.1"), &true)
}

fn errno_only() -> Outcome {
    let mut child = text(command("errno").stdin(Stdio::null()).spawn())?;
    let (status, output) = finish(&mut child, Instant::now() + PATIENCE)?;
    same("status", &status.code(), &Some(0))?;
    same(
        "output",
        &output,
        &format!("unshare {}\nio_uring_setup {}\n", libc::EPERM, libc::ENOSYS),
    )
}

fn profile(case: &str) -> &'static str {
    match case {
        "egress" | "worker" => Profile::EGRESS,
        _ => Profile::AGENT,
    }
}

fn filter(profile: &str, action: RefusalAction) -> Result<Filter, String> {
    let host = Architecture::host().ok_or("no architecture")?;
    text(text(Profile::parse(profile))?.compile(host, action))
}

fn text<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Outcome {
    if seen == expected {
        return Ok(());
    }
    Err(format!("{what}: {seen:?} instead of {expected:?}"))
}
