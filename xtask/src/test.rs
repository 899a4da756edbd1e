//! Runs the tests: those that need no privilege by cargo, the behaviour tests as each kind of user.
//!
//! The behaviour tests find the programs through `NEMOCLAW_BIN_DIR`. As root they run twice: as
//! root, and as an ordinary user that exists only by its number. What they need is copied to a
//! directory that such a user can reach, because a checkout in root's home is closed to it.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{self, say};
use crate::report::Tally;
use crate::workspace::{Owner, Workspace, in_ci, is_root};

/// How long one test program, or all of cargo's, may take.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// The ordinary user's number: below the dynamic users of systemd, above people and packages.
const ORDINARY: Owner = Owner {
    user: 60_917,
    group: 60_917,
};
/// The crate of the behaviour tests.
const BEHAVIOUR: &str = "nemoclaw-tests";
/// What a machine of the continuous integration must offer, so that nothing is skipped unseen.
const REQUIRED: &str = "namespaces,mounts,landlock,seccomp,identity";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// As root, run only the behaviour tests, and only as an ordinary user
    #[arg(long)]
    as_user: bool,
    /// Only tests whose name holds this
    filter: Option<String>,
}

/// Runs the tests and prints how many passed, failed and were skipped.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let filter = arguments.filter.as_deref();
    if !arguments.as_user {
        pure(workspace, filter, &mut tally)?;
    }
    behaviour(workspace, arguments.as_user, filter, &mut tally)?;
    conclude(&tally)?;
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Prints the skipped tests with their reasons and, as the last line, the counts.
pub(crate) fn conclude(tally: &Tally) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for (test, reason) in &tally.skips {
        writeln!(out, "skipped {test}: {reason}")?;
    }
    if tally.ignored > 0 {
        writeln!(
            out,
            "skipped {} marked `ignore` in the source",
            tally.ignored
        )?;
    }
    writeln!(out, "{tally}")?;
    Ok(())
}

/// Unit and documentation tests of every crate but the behaviour tests.
pub(crate) fn pure(workspace: &Workspace, filter: Option<&str>, tally: &mut Tally) -> Result<()> {
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    command.args(["--exclude", BEHAVIOUR]);
    command.args(filter).env("INSTA_UPDATE", "no");
    tally.add("unit", counted(&mut command)?);
    Ok(())
}

/// The behaviour tests, as whoever we are and, for root, as an ordinary user too.
pub(crate) fn behaviour(
    workspace: &Workspace,
    only_user: bool,
    filter: Option<&str>,
    tally: &mut Tally,
) -> Result<()> {
    let stage = Stage::make(workspace)?;
    if !(only_user && is_root()) {
        let name = if is_root() { "as root" } else { "as this user" };
        for program in &stage.tests {
            let mut command = Command::new(program);
            stage.equip(&mut command, filter, is_root());
            tally.add(name, counted(&mut command)?);
        }
    }
    if is_root() {
        for program in &stage.tests {
            let mut command = stage.as_ordinary_user(program)?;
            stage.equip(&mut command, filter, false);
            tally.add("as an ordinary user", counted(&mut command)?);
        }
    }
    Ok(())
}

/// A directory that every user can reach, with the built programs, the tests and the policies.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) root: PathBuf,
    tests: Vec<PathBuf>,
}

impl Stage {
    fn make(workspace: &Workspace) -> Result<Self> {
        let mut build = workspace.cargo();
        process::run(build.args(["build", "--locked", "--workspace", "--bins"]))?;
        let built = executables(workspace)?;
        let mut stage = Self::empty("tests")?;
        let programs = stage.root.join("bin");
        copy_programs(&workspace.target.join("debug"), &programs)?;
        let policies = stage.root.join("policies");
        fs::create_dir(&policies)?;
        for entry in fs::read_dir(workspace.root.join("policies"))? {
            let entry = entry?;
            fs::copy(entry.path(), policies.join(entry.file_name()))?;
        }
        for executable in built {
            let name = executable
                .file_name()
                .context("a test program has no name")?;
            let copy = stage.root.join(name);
            fs::copy(&executable, &copy)?;
            stage.tests.push(copy);
        }
        Ok(stage)
    }

    /// An empty one; not below `/tmp`, which agents see as a private directory.
    pub(crate) fn empty(purpose: &str) -> Result<Self> {
        let root = PathBuf::from(format!(
            "/var/tmp/nemoclaw-{purpose}-{}",
            std::process::id()
        ));
        fs::create_dir(&root).with_context(|| format!("could not create `{}`", root.display()))?;
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            root,
            tests: Vec::new(),
        })
    }

    /// `program`, started as an ordinary user with a home of its own and a clean environment.
    pub(crate) fn as_ordinary_user(&self, program: &Path) -> Result<Command> {
        let home = self.root.join("home");
        if !home.exists() {
            fs::create_dir(&home)?;
            fs::set_permissions(&home, fs::Permissions::from_mode(0o700))?;
            ORDINARY.take(&home)?;
        }
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={}", ORDINARY.user))
            .arg(format!("--regid={}", ORDINARY.group))
            .args(["--clear-groups", "--inh-caps=-all", "--"])
            .arg(program)
            .current_dir(&home)
            .env_clear()
            .env("HOME", &home)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8");
        Ok(command)
    }

    fn equip(&self, command: &mut Command, filter: Option<&str>, root: bool) {
        if command.get_current_dir().is_none() {
            command.current_dir(&self.root);
        }
        command
            .args(filter)
            .env("NEMOCLAW_BIN_DIR", self.root.join("bin"))
            .env("NEMOCLAW_POLICY_DIR", self.root.join("policies"))
            .env("INSTA_UPDATE", "no");
        if let Some(required) = required(root) {
            command.env("NEMOCLAW_REQUIRE", required);
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            say(&format!(
                "could not remove `{}`: {error}",
                self.root.display()
            ));
        }
    }
}

/// What may not be skipped: as the caller says, else everything where `CI` is set.
fn required(root: bool) -> Option<OsString> {
    if let Some(said) = std::env::var_os("NEMOCLAW_REQUIRE") {
        return Some(said);
    }
    in_ci().then(|| {
        let cgroups = if root { ",cgroups" } else { "" };
        format!("{REQUIRED}{cgroups}").into()
    })
}

/// Copies our programs, so that any user can start them.
pub(crate) fn copy_programs(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let ours =
            name.to_string_lossy().starts_with("nemoclaw") && !name.to_string_lossy().contains('.');
        if ours && entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(&name))?;
        }
    }
    Ok(())
}

/// Builds the behaviour tests; answers their programs.
fn executables(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut command = workspace.cargo();
    command.args(["test", "--locked", "--no-run", "--package", BEHAVIOUR]);
    command.args([
        "--lib",
        "--tests",
        "--message-format=json-render-diagnostics",
    ]);
    say(&format!("+ {}", process::describe(&command)));
    let text = process::output(&mut command)?;
    let mut found = Vec::new();
    for line in text.lines() {
        let message: Value = serde_json::from_str(line).context("cargo printed no JSON")?;
        let is_test = message.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        if let Some(path) = message.get("executable").and_then(Value::as_str)
            && is_test
        {
            found.push(PathBuf::from(path));
        }
    }
    found.sort();
    Ok(found)
}

/// Runs a test command, passes its output on, and counts.
fn counted(command: &mut Command) -> Result<Tally> {
    say(&format!("+ {}", process::describe(command)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", process::describe(command)))?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let readers = [
        child
            .stdout
            .take()
            .map(|stream| count_lines(stream, &tally)),
        child
            .stderr
            .take()
            .map(|stream| count_lines(stream, &tally)),
    ];
    let status = process::wait_within(&mut child, Instant::now() + LIMIT)?;
    // What a test left running may hold the pipes open; it must not hold us.
    let grace = Instant::now() + Duration::from_secs(10);
    let reading = || readers.iter().flatten().any(|reader| !reader.is_finished());
    while reading() && Instant::now() < grace {
        thread::sleep(Duration::from_millis(20));
    }
    let left_behind = reading();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fault = match status {
        None => Some(format!("was not done within {} s", LIMIT.as_secs())),
        Some(_) if left_behind => Some("left a process behind that holds its output".to_owned()),
        Some(status) if !status.success() && tally.failed == 0 => Some(format!("failed: {status}")),
        Some(_) => None,
    };
    if let Some(fault) = fault {
        say(&format!("`{}` {fault}", process::describe(command)));
        tally.failed += 1;
    }
    Ok(tally)
}

fn count_lines<R: Read + Send + 'static>(
    stream: R,
    tally: &Arc<Mutex<Tally>>,
) -> thread::JoinHandle<()> {
    let tally = Arc::clone(tally);
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // An error ends the output that can be read.
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            say(text);
            tally
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(text);
            line.clear();
        }
    })
}
