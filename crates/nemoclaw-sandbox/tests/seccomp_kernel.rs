//! The profiles on the running kernel: a child, which has one thread, installs the filter and tries
//! what it promises; this process holds the listener and answers.
//!
//! The program is its own child and so has no test harness. Instead of the tests, `measure` prints what
//! a call costs with and without the filter, and `try PROGRAM ARGUMENT...` runs a program under the
//! agent's filter and prints what was refused.

use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nemoclaw_sandbox::seccomp::{
    Architecture, Errno, Event, Filter, Install, Listener, Notification, Profile, RefusalAction,
    install, probe,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

type Outcome = Result<(), String>;

const PATIENCE: Duration = Duration::from_secs(20);

type Test = (&'static str, fn() -> Outcome);

const TESTS: [Test; 9] = [
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
        "a_filter_that_reports_nothing_needs_no_listener",
        errno_only,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut out = io::stdout().lock();
    let result = match arguments.first().map(String::as_str) {
        Some("child") => child(arguments.get(1).map_or("", String::as_str)),
        Some("measure") => measure(&mut out),
        Some("try") => try_program(&mut out),
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

// ---- the tests, in the parent ----

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
    let report = run("egress")?;
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

// ---- the child ----

/// What is tried, with its number, its arguments and the answer that is due.
#[rustfmt::skip]
const REFUSED: [(&str, libc::c_long, [u64; 3], Errno); 14] = [
    ("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0], Errno::PERM),
    ("clone", libc::SYS_clone, [0x1000_0011, 0, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [38, 5, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [40, 1, 0], Errno::PERM),
    ("socket", libc::SYS_socket, [17, 3, 0x0300], Errno::PERM),
    ("socket", libc::SYS_socket, [2, 1, 262], Errno::PERM),
    ("ioctl", libc::SYS_ioctl, [0, 0x5412, 0], Errno::PERM),
    ("ioctl", libc::SYS_ioctl, [0, 0xdead_beef_0000_5412, 0], Errno::PERM),
    ("ptrace", libc::SYS_ptrace, [0, 0, 0], Errno::PERM),
    ("bpf", libc::SYS_bpf, [0, 0, 0], Errno::PERM),
    ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0], Errno::NOSYS),
    ("memfd_create", libc::SYS_memfd_create, [0, 0, 0], Errno::NOSYS),
    ("seccomp", libc::SYS_seccomp, [1, 8, 0], Errno::PERM),
    ("?", 5000, [1, 2, 3], Errno::NOSYS),
];

fn child(case: &str) -> Outcome {
    if case == "errno" {
        text(rustix::thread::set_no_new_privs(true))?;
        let listener = text(install(
            &filter(Profile::AGENT, RefusalAction::Errno)?,
            Install::default(),
        ))?;
        same("listener", &listener.is_some(), &false)?;
        try_call("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0])?;
        return try_call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0]);
    }
    let profile = if case == "egress" {
        Profile::EGRESS
    } else {
        Profile::AGENT
    };
    let filter = filter(profile, RefusalAction::Notify)?;
    text(rustix::thread::set_no_new_privs(true))?;
    let how = Install {
        wait_killable: case == "refused" && probe().wait_killable,
    };
    let listener = text(install(&filter, how))?.ok_or("no listener")?;
    send(&listener)?;
    drop(listener);
    text(io::stdin().read_exact(&mut [0]))?;
    match case {
        "ordinary" => {
            let answer = std::thread::spawn(|| 7)
                .join()
                .map_err(|_| "thread failed")?;
            say(&format!("thread {answer}"))?;
            let mut shell = Command::new("/bin/sh");
            let shell = text(
                shell
                    .args(["-c", "ls -l /proc/self | cat >/dev/null; echo $((5 + 7))"])
                    .output(),
            )?;
            say(&format!(
                "shell {}",
                String::from_utf8_lossy(&shell.stdout).trim()
            ))?;
            let pid = raw(libc::SYS_getpid, [0; 3]).map_err(|errno| errno.to_string())?;
            let same_pid = u32::try_from(pid).is_ok_and(|pid| pid == std::process::id());
            say(if same_pid { "pid ok" } else { "pid wrong" })
        }
        "program" => {
            let mut words = std::env::args_os().skip(3);
            let mut program = Command::new(words.next().ok_or("no program")?);
            Err(program.args(words).stdin(Stdio::null()).exec().to_string())
        }
        "clone3" => try_call("clone3", libc::SYS_clone3, [0; 3]),
        "unanswered" => try_call("unshare", libc::SYS_unshare, [0x1000_0000, 0, 0]),
        "refused" => REFUSED
            .into_iter()
            .try_for_each(|(name, number, arguments, _)| try_call(name, number, arguments)),
        "x32" => try_call("x32", 0x4000_0000 | libc::SYS_getpid, [0; 3]),
        "foreign" => int80(),
        "egress" => {
            let answer = std::thread::spawn(|| 7)
                .join()
                .map_err(|_| "thread failed")?;
            say(&format!("thread {answer}"))?;
            let process = Command::new("/bin/true").status();
            say(if process.is_err() {
                "process refused"
            } else {
                "process started"
            })?;
            try_call("kill", libc::SYS_kill, [1, 0, 0])
        }
        _ => Err(format!("no case `{case}`")),
    }
}

fn try_call(name: &str, number: libc::c_long, arguments: [u64; 3]) -> Outcome {
    match raw(number, arguments) {
        Ok(value) => say(&format!("{name} succeeded with {value}")),
        Err(errno) => say(&format!("{name} {errno}")),
    }
}

/// The call's value or its error number.
fn raw(number: libc::c_long, [a, b, c]: [u64; 3]) -> Result<libc::c_long, i32> {
    // SAFETY: the calls tried here take integers, or null for each pointer, and are refused before
    // the kernel looks; getpid, the one that is not, takes nothing.
    let value = unsafe { libc::syscall(number, a, b, c, 0_u64, 0_u64, 0_u64) };
    if value == -1 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    Ok(value)
}

#[cfg(target_arch = "x86_64")]
fn int80() -> Outcome {
    let value: u64;
    // SAFETY: getpid of the 32-bit table (20) takes nothing and changes only rax; where the kernel
    // does not have that table the instruction raises a signal that ends this process.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") 20_u64 => value,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
    }
    say(&format!("32-bit getpid succeeded with {value}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn int80() -> Outcome {
    Err("no such instruction".to_owned())
}

fn say(line: &str) -> Outcome {
    let mut out = io::stdout();
    text(writeln!(out, "{line}"))?;
    text(out.flush())
}

fn send(listener: &OwnedFd) -> Outcome {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [std::os::fd::AsFd::as_fd(listener)];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    text(sendmsg(
        io::stdin(),
        &[io::IoSlice::new(b"l")],
        &mut control,
        SendFlags::empty(),
    ))?;
    Ok(())
}

// ---- both ----

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

// ---- the parent's end of a child ----

struct Running {
    child: Child,
    listener: Listener,
    socket: UnixStream,
    filter: Filter,
    deadline: Instant,
}

struct Report {
    pid: u32,
    status: ExitStatus,
    output: String,
    notifications: Vec<Notification>,
}

impl Report {
    fn names(&self) -> Vec<&'static str> {
        self.notifications
            .iter()
            .map(|call| call.name().unwrap_or("?"))
            .collect()
    }
}

fn command(case: &str) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut command = Command::new(program);
    command.args(["child", case]).stdout(Stdio::piped());
    if case == "program" {
        command
            .args(std::env::args_os().skip(2))
            .stdout(Stdio::inherit());
    }
    command
}

/// Runs the case, answering each reported call as its filter says.
fn run(case: &str) -> Result<Report, String> {
    let mut running = Running::start(case)?;
    running.go()?;
    let mut notifications = Vec::new();
    while let Some(call) = running.next()? {
        let answer = running.filter.answer(call.syscall);
        same(
            "answer taken",
            &text(running.listener.respond(call.id, answer))?,
            &true,
        )?;
        same(
            "answered twice",
            &text(running.listener.respond(call.id, answer))?,
            &false,
        )?;
        notifications.push(call);
    }
    let (status, output) = finish(&mut running.child, running.deadline)?;
    Ok(Report {
        pid: running.child.id(),
        status,
        output,
        notifications,
    })
}

impl Running {
    fn start(case: &str) -> Result<Self, String> {
        let (socket, theirs) = text(UnixStream::pair())?;
        text(socket.set_read_timeout(Some(PATIENCE)))?;
        let child = text(
            command(case)
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn(),
        )?;
        let mut child = KillOnDrop(Some(child));
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut into = [io::IoSliceMut::new(&mut byte)];
        text(recvmsg(
            &socket,
            &mut into,
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ))?;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let listener = text(Listener::new(
            descriptor.ok_or("the child sent no listener")?,
        ))?;
        let profile = if case == "egress" {
            Profile::EGRESS
        } else {
            Profile::AGENT
        };
        let filter = filter(profile, RefusalAction::Notify)?;
        let child = child.0.take().ok_or("no child")?;
        Ok(Self {
            child,
            listener,
            socket,
            filter,
            deadline: Instant::now() + PATIENCE,
        })
    }

    fn go(&mut self) -> Outcome {
        text(self.socket.write_all(b"g"))
    }

    /// The next reported call, or `None` when the filter's last process has gone.
    fn next(&mut self) -> Result<Option<Notification>, String> {
        while Instant::now() < self.deadline {
            match text(self.listener.receive())? {
                Event::Call(call) => return Ok(Some(call)),
                Event::Ended => return Ok(None),
                Event::Idle => {
                    let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
                    text(poll(
                        &mut waiting,
                        Some(&Timespec {
                            tv_sec: 1,
                            tv_nsec: 0,
                        }),
                    ))?;
                }
            }
        }
        let _ = self.child.kill();
        Err("nothing more came in time".to_owned())
    }
}

struct KillOnDrop(Option<Child>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn finish(child: &mut Child, deadline: Instant) -> Result<(ExitStatus, String), String> {
    let status = loop {
        if let Some(status) = text(child.try_wait())? {
            break status;
        }
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err("the child did not end in time".to_owned());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut output = String::new();
    if let Some(stdout) = &mut child.stdout {
        text(stdout.read_to_string(&mut output))?;
    }
    Ok((status, output))
}

// ---- instead of the tests ----

/// Runs the program named on the command line and prints each refused call.
fn try_program(out: &mut dyn io::Write) -> Outcome {
    let mut running = Running::start("program")?;
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
fn measure(out: &mut dyn io::Write) -> Outcome {
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
