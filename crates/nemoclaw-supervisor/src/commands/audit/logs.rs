//! Which log is meant: a file, a directory, an agent's name, or nothing at all.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nemoclaw_audit::{Shown, default_directory, default_path};
use thiserror::Error;

use crate::facts::{Person, PersonError};

/// The end of a log's name.
const LOG: &[u8] = b".jsonl";

/// The end of its head file's name.
const HEAD: &[u8] = b".jsonl.head";

/// Why no log was found.
#[derive(Debug, Error)]
pub(crate) enum LogsError {
    /// The default place depends on who asks.
    #[error("could not find the default place of audit logs; name the log file instead")]
    Person(#[from] PersonError),
    /// The directory could not be listed.
    #[error("could not list `{}`", shown(path))]
    List { path: PathBuf, source: io::Error },
    /// The log is not there.
    #[error("there is no audit log `{}`; {}", shown(path), others(beside))]
    Missing { path: PathBuf, beside: Vec<PathBuf> },
    /// The log is not there, and something says that it was.
    #[error(
        "the audit log `{}` was removed: its head file is still there; restore the log, or remove the head file too to start a new one",
        shown(.0)
    )]
    Removed(PathBuf),
    /// No log is there at all.
    #[error(
        "there is no audit log in `{}`; run an agent first, or name the log file",
        shown(directory)
    )]
    None { directory: PathBuf },
    /// One is wanted and there are more.
    #[error("there are {} audit logs in `{}`; name one of them: {}", logs.len(), shown(directory), list(logs))]
    Several {
        directory: PathBuf,
        logs: Vec<PathBuf>,
    },
}

/// Where logs lie for the user who runs this, when neither policy nor command line says so.
#[derive(Debug)]
pub(crate) struct DefaultPlace {
    is_root: bool,
    state_home: Option<PathBuf>,
    home: PathBuf,
}

impl DefaultPlace {
    /// For the user of this process. Root, through sudo or not, has one place for the whole machine.
    pub(crate) fn find() -> Result<Self, PersonError> {
        let is_root = rustix::process::geteuid().is_root();
        let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let home_counts = !is_root && !state_home.as_ref().is_some_and(|it| it.is_absolute());
        Ok(Self {
            is_root,
            state_home,
            home: if home_counts {
                PathBuf::from(Person::who_started()?.home)
            } else {
                PathBuf::from("/")
            },
        })
    }

    /// The directory of all logs.
    pub(crate) fn directory(&self) -> PathBuf {
        default_directory(self.is_root, self.state_home.as_deref(), &self.home)
    }

    /// The log of one agent.
    pub(crate) fn of_agent(&self, agent: &str) -> PathBuf {
        default_path(agent, self.is_root, self.state_home.as_deref(), &self.home)
    }
}

/// The one log that is meant: a file; the only log of a directory; an agent's; or the only one in the default place.
pub(super) fn one(log: Option<&Path>, agent: Option<&str>) -> Result<PathBuf, LogsError> {
    let directory = match (log, agent) {
        (Some(path), _) if path.is_dir() => path.to_owned(),
        (Some(path), _) => return present(path.to_owned()),
        (None, Some(agent)) => return present(DefaultPlace::find()?.of_agent(agent)),
        (None, None) => DefaultPlace::find()?.directory(),
    };
    let mut logs = of_directory(&directory)?;
    match logs.pop() {
        None => Err(LogsError::None { directory }),
        Some(log) if logs.is_empty() => present(log),
        Some(last) => {
            logs.push(last);
            Err(LogsError::Several { directory, logs })
        }
    }
}

/// Every log that is meant: files as named, all of each directory, or an agent's, or all in the default place.
pub(super) fn all(logs: &[PathBuf], agent: Option<&str>) -> Result<Vec<PathBuf>, LogsError> {
    let mut directories = Vec::new();
    let mut found = Vec::new();
    match agent {
        Some(agent) => found.push(present(DefaultPlace::find()?.of_agent(agent))?),
        None if logs.is_empty() => directories.push(DefaultPlace::find()?.directory()),
        None => {
            for path in logs {
                if path.is_dir() {
                    directories.push(path.clone());
                } else {
                    found.push(path.clone());
                }
            }
        }
    }
    for directory in directories {
        let logs = of_directory(&directory)?;
        if logs.is_empty() {
            return Err(LogsError::None { directory });
        }
        found.extend(logs);
    }
    Ok(found)
}

/// The logs of a directory by name. A head file whose log is gone counts too: that must not hide.
fn of_directory(directory: &Path) -> Result<Vec<PathBuf>, LogsError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            let bytes = name.as_bytes();
            if bytes.ends_with(LOG) {
                logs.push(directory.join(name));
            } else if let Some(stem) = bytes.strip_suffix(HEAD) {
                let log = [stem, LOG].concat();
                logs.push(directory.join(OsStr::from_bytes(&log)));
            }
        }
        logs.sort();
        logs.dedup();
        Ok(logs)
    };
    match list() {
        Ok(logs) => Ok(logs),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(LogsError::List {
            path: directory.to_owned(),
            source,
        }),
    }
}

/// The path, unless nothing is there. What else hinders is told by whoever opens it.
pub(super) fn present(path: PathBuf) -> Result<PathBuf, LogsError> {
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut head = path.clone().into_os_string();
            head.push(".head");
            if fs::symlink_metadata(&head).is_ok() {
                return Err(LogsError::Removed(path));
            }
            let beside = path
                .parent()
                .and_then(|directory| of_directory(directory).ok())
                .unwrap_or_default();
            Err(LogsError::Missing {
                beside: beside.into_iter().filter(|log| *log != path).collect(),
                path,
            })
        }
        _ => Ok(path),
    }
}

/// A path for a message.
pub(super) fn shown(path: &Path) -> String {
    Shown(&path.to_string_lossy()).to_string()
}

fn others(beside: &[PathBuf]) -> String {
    if beside.is_empty() {
        "run the agent first, or name another".to_owned()
    } else {
        format!("beside it lie {}", list(beside))
    }
}

fn list(logs: &[PathBuf]) -> String {
    let names: Vec<String> = logs
        .iter()
        .map(|log| {
            let name = log.file_name().map_or_else(OsString::new, OsStr::to_owned);
            format!("`{}`", Shown(&name.to_string_lossy()))
        })
        .collect();
    names.join(", ")
}
