//! Where a log lies when nobody says.

use std::path::{Path, PathBuf};

/// The directory of the logs: `/var/lib/nemoclaw/audit` for root, otherwise `nemoclaw/audit` under `state_home`
/// (`$XDG_STATE_HOME`; a relative one is ignored, as the XDG base directory specification asks) or
/// `~/.local/state`.
pub fn default_directory(is_root: bool, state_home: Option<&Path>, home: &Path) -> PathBuf {
    if is_root {
        return PathBuf::from("/var/lib/nemoclaw/audit");
    }
    let state = match state_home {
        Some(path) if path.is_absolute() => path.to_owned(),
        _ => home.join(".local/state"),
    };
    state.join("nemoclaw/audit")
}

/// The log of one agent: its [`log_name`] in [`default_directory`].
pub fn default_path(agent: &str, is_root: bool, state_home: Option<&Path>, home: &Path) -> PathBuf {
    default_directory(is_root, state_home, home).join(log_name(agent))
}

/// The name of an agent's log in whatever directory: `<agent>.jsonl`.
///
/// Bytes other than letters, digits, `-`, `_` and inner dots are written `%XX`, so that no name leaves the directory
/// and no two names share a log.
pub fn log_name(agent: &str) -> String {
    let mut name = String::with_capacity(agent.len() + 6);
    for (index, byte) in agent.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if index > 0 => name.push('.'),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.is_empty() {
        name.push('%');
    }
    name.push_str(".jsonl");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(agent: &str, state_home: Option<&str>) -> String {
        default_path(
            agent,
            false,
            state_home.map(Path::new),
            Path::new("/home/ann"),
        )
        .display()
        .to_string()
    }

    #[test]
    fn root_and_a_user_have_their_own_places() {
        assert_eq!(
            default_path("coder", true, None, Path::new("/root")),
            Path::new("/var/lib/nemoclaw/audit/coder.jsonl")
        );
        assert_eq!(
            user("coder", None),
            "/home/ann/.local/state/nemoclaw/audit/coder.jsonl"
        );
        assert_eq!(
            user("coder", Some("/state")),
            "/state/nemoclaw/audit/coder.jsonl"
        );
        assert_eq!(
            user("coder", Some("state")),
            "/home/ann/.local/state/nemoclaw/audit/coder.jsonl"
        );
    }

    #[test]
    fn no_name_leaves_the_directory() {
        assert_eq!(
            user("../../x", Some("/s")),
            "/s/nemoclaw/audit/%2E.%2F..%2Fx.jsonl"
        );
        assert_eq!(user("", Some("/s")), "/s/nemoclaw/audit/%.jsonl");
        assert_eq!(user("a b%", Some("/s")), "/s/nemoclaw/audit/a%20b%25.jsonl");
    }
}
