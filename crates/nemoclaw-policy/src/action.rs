//! Actions: what somebody wants to do, and may be asked about.

use std::fmt;
use std::str::FromStr;

use nemoclaw_common::FileAccess;
use serde::{Serialize, Serializer};

use crate::diagnostic::quote;
use crate::host::{Host, HostError, port_of};
use crate::path::{PathError, SandboxPath};
use crate::words::nearest;

/// Something that an agent wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read a file or list a directory.
    Read(SandboxPath),
    /// Create, modify, truncate, rename into, link, change metadata.
    Write(SandboxPath),
    /// Unlink, remove a directory, rename away or over.
    Delete(SandboxPath),
    /// Execute a program.
    Execute(SandboxPath),
    /// Reach a destination.
    Connect {
        /// A name or a literal address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is no [`Action`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// There is no `:` after a word.
    #[error("{} is no action; write `read:/path`, `write:/path`, `delete:/path`, `execute:/path` or `connect:host:port`", quote(.0))]
    Form(String),
    /// The word before `:` is none of the five.
    #[error("unknown action {}{}", quote(.word), .near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_else(|| "; known are `read`, `write`, `delete`, `execute` and `connect`".to_owned()))]
    Word {
        /// The word.
        word: String,
        /// The nearest of the five.
        near: Option<&'static str>,
    },
    /// What follows is no path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What follows is no host.
    #[error("{0}; {hint}", hint = .0.hint)]
    Host(HostError),
    /// There is no port.
    #[error("{} has no port; write `connect:host:port`, with an address of IPv6 in brackets", quote(.0))]
    Port(String),
}

const WORDS: [&str; 5] = ["read", "write", "delete", "execute", "connect"];

impl Action {
    /// The path and what is done to it; `None` for [`Action::Connect`].
    #[must_use]
    pub fn file(&self) -> Option<(FileAccess, &SandboxPath)> {
        match self {
            Self::Read(path) => Some((FileAccess::READ, path)),
            Self::Write(path) => Some((FileAccess::WRITE, path)),
            Self::Delete(path) => Some((FileAccess::DELETE, path)),
            Self::Execute(path) => Some((FileAccess::EXECUTE, path)),
            Self::Connect { .. } => None,
        }
    }
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, ActionError> {
        let (word, rest) = text
            .split_once(':')
            .ok_or_else(|| ActionError::Form(text.to_owned()))?;
        match word {
            "read" => Ok(Self::Read(SandboxPath::try_from(rest)?)),
            "write" => Ok(Self::Write(SandboxPath::try_from(rest)?)),
            "delete" => Ok(Self::Delete(SandboxPath::try_from(rest)?)),
            "execute" => Ok(Self::Execute(SandboxPath::try_from(rest)?)),
            "connect" => connect(rest),
            _ => Err(ActionError::Word {
                word: word.to_owned(),
                near: nearest(word, WORDS),
            }),
        }
    }
}

fn connect(text: &str) -> Result<Action, ActionError> {
    let no_port = || ActionError::Port(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']').ok_or_else(no_port)?;
            if inner.parse::<std::net::Ipv6Addr>().is_err() {
                let message = format!("{} is no address of IPv6", quote(inner));
                let hint = "only such an address stands in `[…]`".to_owned();
                return Err(ActionError::Host(HostError { message, hint }));
            }
            inner
        }
        None if host.contains(':') => return Err(no_port()),
        None => host,
    };
    Host::parse(host).map_err(ActionError::Host)?;
    let port = port_of(port).map_err(ActionError::Host)?;
    Ok(Action::Connect {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path) => write!(f, "read:{path}"),
            Self::Write(path) => write!(f, "write:{path}"),
            Self::Delete(path) => write!(f, "delete:{path}"),
            Self::Execute(path) => write!(f, "execute:{path}"),
            Self::Connect { host, port } if host.contains(':') => {
                write!(f, "connect:[{host}]:{port}")
            }
            Self::Connect { host, port } => write!(f, "connect:{host}:{port}"),
        }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_written_as_it_is_read() {
        for text in [
            "read:/a",
            "write:/a b/c:d",
            "delete:/",
            "execute:/bin/sh",
            "connect:a.example:443",
            "connect:[::1]:80",
            "connect:127.0.0.1:8080",
        ] {
            assert_eq!(text.parse::<Action>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_action_says_what_would_be() {
        let message = |text: &str| text.parse::<Action>().unwrap_err().to_string();
        insta::assert_snapshot!(message("nonsense"), @"`nonsense` is no action; write `read:/path`, `write:/path`, `delete:/path`, `execute:/path` or `connect:host:port`");
        insta::assert_snapshot!(message("raed:/a"), @"unknown action `raed`; did you mean `read`?");
        insta::assert_snapshot!(message("fly:/a"), @"unknown action `fly`; known are `read`, `write`, `delete`, `execute` and `connect`");
        insta::assert_snapshot!(message("read:a/../b"), @"path `a/../b` is not absolute");
        insta::assert_snapshot!(message("read:/a/../b"), @"path `/a/../b` is not normal: it must hold no `.`, no `..`, no `//` and no `/` at its end");
        insta::assert_snapshot!(message("connect:a.example"), @"`a.example` has no port; write `connect:host:port`, with an address of IPv6 in brackets");
        insta::assert_snapshot!(message("connect:::1:80"), @"`::1:80` has no port; write `connect:host:port`, with an address of IPv6 in brackets");
        insta::assert_snapshot!(message("connect:a.example:99999"), @"`99999` is no port; write a number from 1 to 65535");
        insta::assert_snapshot!(message("connect:http://a.example:80"), @"`http://a.example:80` has no port; write `connect:host:port`, with an address of IPv6 in brackets");
    }
}
