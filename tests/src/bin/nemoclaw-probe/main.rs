//! Runs inside the sandbox, tries what it is told to and says how it went.
//!
//! Each argument is one try, `NAME` or `NAME:TARGET`; each prints one line of JSON:
//!
//! ```text
//! $ nemoclaw-probe read:/etc/shadow socket:vsock:stream no-new-privs
//! {"errno":"ENOENT","ok":false,"target":"/etc/shadow","try":"read"}
//! {"errno":"EPERM","ok":false,"target":"vsock:stream","try":"socket"}
//! {"detail":true,"ok":true,"target":"","try":"no-new-privs"}
//! ```
//!
//! It also runs outside: whatever would harm a machine on which it is allowed is asked for with
//! arguments that the kernel turns down after it has judged the permission, so `EINVAL` or `EFAULT`
//! says that the caller came through.
//!
//! `nemoclaw-probe without MECHANISM COMMAND…` runs a command on a kernel that seems to lack
//! something.

mod facts;
mod files;
mod http;
mod kernel;
mod namespaces;
mod processes;
mod sockets;
mod without;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use nix::errno::Errno;
use serde_json::{Value, json};

/// How a try went: what was seen, or why it failed.
type Outcome = Result<Value, Failure>;

/// Why a try failed.
#[derive(Debug)]
enum Failure {
    /// The kernel's answer.
    Errno(Errno),
    /// The process that tried was ended by this signal.
    Killed(i32),
    /// The try itself could not be made.
    Unable(String),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Errno(Errno::from_raw(errno.raw_os_error()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::Errno(Errno::from_raw(errno)),
            None => Self::Unable(error.to_string()),
        }
    }
}

/// Turns a target that a try cannot read into its failure.
fn unable(what: impl Into<String>) -> Failure {
    Failure::Unable(what.into())
}

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "without") {
        return without::run(&words.split_off(1));
    }
    let mut status = ExitCode::SUCCESS;
    for word in words {
        let word = word.to_string_lossy();
        let (name, target) = word.split_once(':').unwrap_or((&word, ""));
        match name {
            // Not tries but deeds.
            "exit" => return ExitCode::from(target.parse::<u8>().unwrap_or(255)),
            "print" => {
                if say(target).is_err() {
                    return ExitCode::from(74);
                }
                continue;
            }
            _ => {}
        }
        let outcome = attempt(name, target).unwrap_or_else(|| {
            status = ExitCode::from(64);
            Err(unable("there is no such try"))
        });
        if say(&line(name, target, outcome).to_string()).is_err() {
            return ExitCode::from(74);
        }
    }
    status
}

fn attempt(name: &str, target: &str) -> Option<Outcome> {
    facts::attempt(name)
        .or_else(|| files::attempt(name, target))
        .or_else(|| processes::attempt(name, target))
        .or_else(|| sockets::attempt(name, target))
        .or_else(|| http::attempt(name, target))
        .or_else(|| namespaces::attempt(name, target))
        .or_else(|| kernel::attempt(name, target))
}

fn line(name: &str, target: &str, outcome: Outcome) -> Value {
    let mut line = json!({"try": name, "target": target, "ok": outcome.is_ok()});
    match outcome {
        Ok(Value::Null) => {}
        Ok(detail) => line["detail"] = detail,
        Err(Failure::Errno(errno)) => line["errno"] = format!("{errno:?}").into(),
        Err(Failure::Killed(signal)) => line["killed"] = signal.into(),
        Err(Failure::Unable(why)) => line["unable"] = why.into(),
    }
    line
}

/// Prints one line at once: what comes later may end this process.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
