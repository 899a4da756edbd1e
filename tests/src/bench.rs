//! A workspace, an agent launched in it, and what it said.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Policy, Terminal, program};

/// How long a run may take before it is ended and the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory of a test's own, removed with all in it.
///
/// ```text
/// work/     the agent's working directory
/// outside/  beside it, which no policy allows unless the test says so
/// audit/    where the log is written
/// ```
///
/// It lies in `/var/tmp`, because agents have a `/tmp` of their own.
#[derive(Debug)]
pub struct Bench {
    root: TempDir,
    /// The agent's name: no other run on this machine has it.
    pub name: String,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    /// Makes it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = tempfile::Builder::new()
            .prefix("nemoclaw-bench-")
            .tempdir_in("/var/tmp")
            .expect("a directory in /var/tmp");
        for name in ["work", "outside"] {
            fs::create_dir(root.path().join(name)).expect("a directory of the bench");
        }
        Self {
            root,
            name: format!("bench-{}-{count}", std::process::id()),
        }
    }

    /// The directory that holds the others.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path in the working directory.
    #[must_use]
    pub fn work(&self, name: &str) -> PathBuf {
        self.root().join("work").join(name)
    }

    /// A path beside the working directory.
    #[must_use]
    pub fn outside(&self, name: &str) -> PathBuf {
        self.root().join("outside").join(name)
    }

    /// The audit log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root()
            .join("audit")
            .join(format!("{}.jsonl", self.name))
    }

    /// Writes a file, with the directories above it.
    ///
    /// # Panics
    /// When it cannot.
    pub fn write(&self, path: &Path, text: &str) {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("directories of the bench");
        }
        fs::write(path, text).expect("a file of the bench");
    }

    /// A policy under which the probe may do in the working directory what it likes, and run the
    /// system's programs.
    #[must_use]
    pub fn policy(&self) -> Policy {
        let probe = program("nemoclaw-probe");
        let probe = probe.to_str().expect("the probe's path is text");
        let audit = self.root().join("audit");
        let own = ["${workdir}/*"];
        Policy::new(&self.name)
            .allow("read_files", &["${workdir}/*", probe])
            .allow("write_files", &own)
            .allow("delete_files", &own)
            .allow("execute_code", &["/usr/bin/*", "/bin/*", probe])
            // An ordinary user has none unless the system delegates some.
            .enforce("cgroups", "best_effort")
            .section(&format!("audit: {{path: \"{}\"}}", audit.display()))
    }

    /// The command line that launches `command` under a policy.
    ///
    /// # Panics
    /// When the policy cannot be written.
    pub fn agent<S: AsRef<OsStr>>(&self, policy: &Policy, command: &[S]) -> Agent {
        // A new file each time: an agent that starts may be reading the one before.
        let file = tempfile::Builder::new()
            .prefix("policy-")
            .suffix(".yaml")
            .tempfile_in(self.root())
            .and_then(|mut file| {
                file.write_all(policy.to_string().as_bytes())?;
                let (_, path) = file.keep()?;
                Ok(path)
            })
            .expect("a policy file");
        let mut words = vec![program("nemoclaw-supervisor").into_os_string()];
        words.extend(["run".into(), "--policy".into(), file.into(), "--".into()]);
        words.extend(command.iter().map(|word| word.as_ref().to_owned()));
        self.command(words)
    }

    /// The command line that launches the probe.
    #[must_use]
    pub fn probing(&self, policy: &Policy, tries: &[&str]) -> Agent {
        let mut words = vec![program("nemoclaw-probe").into_os_string()];
        words.extend(tries.iter().map(OsString::from));
        self.agent(policy, &words)
    }

    /// Launches the probe and waits for it.
    ///
    /// # Panics
    /// When it was not launched.
    #[must_use]
    pub fn probe(&self, policy: &Policy, tries: &[&str]) -> Finished {
        let finished = self.probing(policy, tries).run();
        assert_eq!(finished.code(), 0, "{finished}");
        finished
    }

    /// Another command of the program under test, such as `audit verify`.
    #[must_use]
    pub fn supervisor(&self, arguments: &[&str]) -> Agent {
        let mut words = vec![program("nemoclaw-supervisor").into_os_string()];
        words.extend(arguments.iter().map(OsString::from));
        self.command(words)
    }

    fn command(&self, words: Vec<OsString>) -> Agent {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
        let environment = [
            (
                "PATH".into(),
                "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".into(),
            ),
            ("HOME".into(), home),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        Agent {
            words,
            environment: environment.into(),
            directory: self.root().join("work"),
            limit: LIMIT,
            input: None,
        }
    }

    /// Every entry of the audit log.
    ///
    /// # Panics
    /// When there is none, or a line is no JSON.
    #[must_use]
    pub fn entries(&self) -> Vec<Value> {
        let log = self.log();
        let text = fs::read_to_string(&log)
            .unwrap_or_else(|error| panic!("could not read `{}`: {error}", log.display()));
        text.lines()
            .map(|line| serde_json::from_str(line).expect("an entry is JSON"))
            .collect()
    }

    /// The entries of one action, such as `launch`.
    #[must_use]
    pub fn entries_of(&self, action: &str) -> Vec<Value> {
        let mut entries = self.entries();
        entries.retain(|entry| entry["action"] == action);
        entries
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A supervisor that a test killed could not remove them.
        crate::host::remove_cgroups(&self.name);
    }
}

/// A command line that is not started yet.
#[derive(Debug)]
pub struct Agent {
    words: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: PathBuf,
    limit: Duration,
    input: Option<Stdio>,
}

impl Agent {
    /// Puts words before the command line, such as `unshare --mount`.
    #[must_use]
    pub fn through<S: AsRef<OsStr>>(mut self, prefix: &[S]) -> Self {
        self.words
            .splice(0..0, prefix.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Starts it on a host that seems to lack a mechanism (`nemoclaw-probe without`).
    #[must_use]
    pub fn without(self, mechanism: &str) -> Self {
        let probe = program("nemoclaw-probe").into_os_string();
        self.through(&[probe, "without".into(), mechanism.into()])
    }

    /// Sets a variable of the caller.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Starts it in another directory than `work`.
    #[must_use]
    pub fn directory(mut self, path: &Path) -> Self {
        path.clone_into(&mut self.directory);
        self
    }

    /// Allows it another time than a minute.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Gives it something to read, instead of nothing.
    #[must_use]
    pub fn input(mut self, input: impl Into<Stdio>) -> Self {
        self.input = Some(input.into());
        self
    }

    fn prepare(&mut self) -> Command {
        let (program, arguments) = self.words.split_first().expect("a command line has a word");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.directory)
            .stdin(self.input.take().unwrap_or_else(Stdio::null));
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut self) -> Live {
        let mut command = self.prepare();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        let output = child.stdout.take().map(collect);
        let error = child.stderr.take().map(collect);
        Live {
            child,
            output,
            error,
            end: Instant::now() + self.limit,
        }
    }

    /// Starts it with a terminal as its standard streams and as its controlling one.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_on(self, terminal: &Terminal) -> Live {
        let end = Instant::now() + self.limit;
        // A session leader without a terminal gets one only itself (setsid(1)).
        let mut agent = self.through(&["setsid", "--ctty"]);
        let mut command = agent.prepare();
        let child = command
            .stdin(terminal.device())
            .stdout(terminal.device())
            .stderr(terminal.device())
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {command:?}: {error}"));
        Live {
            child,
            output: None,
            error: None,
            end,
        }
    }

    /// Starts it and waits for its end.
    #[must_use]
    pub fn run(self) -> Finished {
        self.start().finish()
    }
}

fn collect<R: Read + Send + 'static>(mut stream: R) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is.
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A command that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Live {
    child: Child,
    output: Option<JoinHandle<String>>,
    error: Option<JoinHandle<String>>,
    end: Instant,
}

impl Live {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("process ids are small");
        kill(Pid::from_raw(pid), signal).expect("the supervisor runs");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    /// When the kernel does not know it.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time, or something that it started holds its output open.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        let mut in_time = true;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                break status;
            }
            if Instant::now() > self.end {
                in_time = false;
                self.child.kill().expect("a child of ours");
                break self.child.wait().expect("a child of ours");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let patience = Instant::now() + Duration::from_secs(5);
        let take = |handle: Option<JoinHandle<String>>| match handle {
            None => String::new(),
            Some(handle) => {
                while !handle.is_finished() {
                    assert!(
                        Instant::now() < patience,
                        "something that was left behind holds the output open"
                    );
                    std::thread::sleep(Duration::from_millis(5));
                }
                handle.join().expect("a thread that reads")
            }
        };
        let finished = Finished {
            status,
            output: take(self.output.take()),
            error: take(self.error.take()),
        };
        assert!(in_time, "it did not end in time\n{finished}");
        finished
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Nothing to do where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command left: its end and its words.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub error: String,
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            status,
            output,
            error,
        } = self;
        write!(
            f,
            "{status}\n--- standard output\n{output}\n--- standard error\n{error}"
        )
    }
}

impl Finished {
    /// Its exit status, or 128 and the signal that ended it.
    ///
    /// # Panics
    /// When the kernel says neither.
    #[must_use]
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let signal = self.status.signal().map(|signal| 128 + signal);
        self.status.code().or(signal).expect("it has ended")
    }

    /// Every try that the probe reported.
    #[must_use]
    pub fn tries(&self) -> Vec<Try> {
        self.output
            .lines()
            .filter_map(|line| {
                serde_json::from_str(line)
                    .ok()
                    .and_then(|value| Try::read(&value))
            })
            .collect()
    }

    /// How one try went, by its word on the probe's command line.
    ///
    /// # Panics
    /// When it was not reported.
    #[must_use]
    pub fn find(&self, word: &str) -> Try {
        let (name, target) = word.split_once(':').unwrap_or((word, ""));
        let mut tries = self.tries();
        tries.retain(|found| found.name == name && found.target == target);
        tries
            .pop()
            .unwrap_or_else(|| panic!("`{word}` was not reported\n{self}"))
    }

    /// The detail of a try that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn allowed(&self, word: &str) -> Value {
        let found = self.find(word);
        assert!(
            found.ok,
            "`{word}` should have been allowed: {found:?}\n{self}"
        );
        found.detail
    }

    /// The kernel's answer to a try that must have been refused.
    ///
    /// # Panics
    /// When it was not, or could not be made.
    pub fn refused(&self, word: &str) -> String {
        let found = self.find(word);
        match (found.ok, found.errno, found.killed) {
            (false, Some(errno), _) => errno,
            (false, None, Some(signal)) => format!("signal {signal}"),
            _ => panic!("`{word}` should have been refused\n{self}"),
        }
    }

    /// Holds that a try was refused with one of these answers.
    ///
    /// # Panics
    /// When it was not.
    pub fn refused_as(&self, word: &str, answers: &[&str]) {
        let answer = self.refused(word);
        assert!(
            answers.contains(&answer.as_str()),
            "`{word}`: {answer}, not {answers:?}\n{self}"
        );
    }

    /// Holds that tries were refused, and lists all that were not.
    ///
    /// # Panics
    /// When one was not.
    pub fn all_refused(&self, words: &[&str]) {
        let mut came_through = String::new();
        for word in words {
            let found = self.find(word);
            if found.ok || (found.errno.is_none() && found.killed.is_none()) {
                let _ = writeln!(came_through, "{found:?}");
            }
        }
        assert!(
            came_through.is_empty(),
            "these should have been refused:\n{came_through}\n{self}"
        );
    }
}

/// One line of the probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Try {
    /// What was tried.
    pub name: String,
    /// On what.
    pub target: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// The kernel's answer.
    pub errno: Option<String>,
    /// The signal that ended who tried.
    pub killed: Option<i64>,
    /// Why it could not be tried.
    pub unable: Option<String>,
    /// What was seen.
    pub detail: Value,
}

impl Try {
    fn read(line: &Value) -> Option<Self> {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        Some(Self {
            name: text("try")?,
            target: text("target")?,
            ok: line["ok"].as_bool()?,
            errno: text("errno"),
            killed: line["killed"].as_i64(),
            unable: text("unable"),
            detail: line["detail"].clone(),
        })
    }
}
