//! `audit` as a program: following, the end of it, and the default place.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop"
)]

use std::io::{self, BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nemoclaw_audit::{Decision, Durability, Entry, Log};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nemoclaw-supervisor");

fn append(path: &Path, action: &str, decision: Decision) {
    let mut log = Log::open(path, Durability::AtClose).unwrap();
    let entry = Entry {
        resource: Some("/x".to_owned()),
        policy_decision: Some(decision),
        ..Entry::new(action)
    };
    let _ = log.append(&[entry]).unwrap();
}

/// A program that follows a log; killed however the test ends.
struct Follower {
    child: Child,
    lines: Option<Lines<BufReader<ChildStdout>>>,
}

impl Follower {
    fn start(log: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["audit", "tail", "--follow", "--lines", "1"])
            .arg(log)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = Some(BufReader::new(child.stdout.take().unwrap()).lines());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.as_mut().unwrap().next().unwrap().unwrap()
    }

    fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("the program goes on");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn following_shows_new_entries_until_interrupted_and_then_what_was_refused() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        append(&log, "first", Decision::Allow);
        append(&log, "second", Decision::Deny);
        let mut follower = Follower::start(&log);
        assert!(follower.line().contains("deny   second "));
        append(&log, "third", Decision::Allow);
        assert!(follower.line().contains("allow  third "));
        kill(
            Pid::from_raw(follower.child.id().try_into().unwrap()),
            signal,
        )
        .unwrap();
        let rest: Vec<String> = follower.lines.take().unwrap().map(Result::unwrap).collect();
        assert_eq!(rest, ["", "refused:", "  second `/x`: no rule allows it"]);
        assert_eq!(follower.ends().code(), Some(0));
    }
}

#[test]
fn following_ends_when_nobody_reads_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    append(&log, "first", Decision::Allow);
    let mut follower = Follower::start(&log);
    follower.line();
    drop(follower.lines.take());
    assert_eq!(follower.ends().code(), Some(0));
}

#[test]
fn following_ends_with_an_error_when_the_log_is_moved_away() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    append(&log, "first", Decision::Allow);
    let mut follower = Follower::start(&log);
    follower.line();
    std::fs::rename(&log, directory.path().join("old")).unwrap();
    assert_eq!(follower.ends().code(), Some(1));
}

#[test]
fn without_a_name_the_logs_of_the_default_place_are_meant() {
    if nix::unistd::geteuid().is_root() {
        let test = "without_a_name_the_logs_of_the_default_place_are_meant";
        let reason = "root's logs have one place, which belongs to the machine";
        // Not by `eprintln!`, which the harness keeps to itself when a test passes.
        let _ = writeln!(io::stderr(), "SKIP {test}: {reason}");
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let place: PathBuf = state.path().join("nemoclaw/audit");
    let said = |words: &[&str]| {
        let output = Command::new(PROGRAM)
            .arg("audit")
            .args(words)
            .env("XDG_STATE_HOME", state.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        text.replace(state.path().to_str().unwrap(), "STATE")
    };
    let mut told = said(&["verify"]);
    append(&place.join("coder.jsonl"), "first", Decision::Allow);
    told += &said(&["verify"]);
    assert!(said(&["query"]).contains("allow  first "));
    append(&place.join("other.jsonl"), "second", Decision::Allow);
    told += &said(&["verify"]);
    told += &said(&["tail"]);
    told += &said(&["tail", "--agent", "third"]);
    assert!(said(&["tail", "--agent", "other"]).contains("allow  second "));
    assert_eq!(
        told,
        "\
nemoclaw: there is no audit log in `STATE/nemoclaw/audit`; run an agent first, or name the log file
`STATE/nemoclaw/audit/coder.jsonl`: 1 entry, clean; head agrees
`STATE/nemoclaw/audit/coder.jsonl`: 1 entry, clean; head agrees
`STATE/nemoclaw/audit/other.jsonl`: 1 entry, clean; head agrees
nemoclaw: there are 2 audit logs in `STATE/nemoclaw/audit`; name one of them: `coder.jsonl`, `other.jsonl`
nemoclaw: there is no audit log `STATE/nemoclaw/audit/third.jsonl`; beside it lie `coder.jsonl`, `other.jsonl`
"
    );
}
