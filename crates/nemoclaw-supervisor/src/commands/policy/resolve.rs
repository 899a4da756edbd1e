//! Where a path leads on this host, link by link.

use std::collections::VecDeque;
use std::path::{Component, Path, PathBuf};

/// Links in one path, as in path_resolution(7).
const MOST_LINKS: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The end: absolute, without links, `.` and `..` as far as the host has the path.
    pub(super) path: PathBuf,
    /// The links that were followed, each where it lies.
    pub(super) links: Vec<PathBuf>,
}

/// Follows an absolute path. What does not exist, or cannot be looked at, is taken as it is
/// written. With `last`, a link at the very end is followed too.
pub(super) fn resolve(path: &Path, last: bool) -> Resolved {
    let mut waiting: VecDeque<PathBuf> = parts(path);
    let mut resolved = Resolved {
        path: PathBuf::from("/"),
        links: Vec::new(),
    };
    while let Some(part) = waiting.pop_front() {
        if part.as_os_str() == ".." {
            resolved.path.pop();
            continue;
        }
        let next = resolved.path.join(&part);
        let end = waiting.is_empty() && !last;
        match std::fs::read_link(&next) {
            Ok(target) if !end && resolved.links.len() < MOST_LINKS => {
                if target.is_absolute() {
                    resolved.path = PathBuf::from("/");
                }
                for part in parts(&target).into_iter().rev() {
                    waiting.push_front(part);
                }
                resolved.links.push(next);
            }
            _ => resolved.path = next,
        }
    }
    resolved
}

fn parts(path: &Path) -> VecDeque<PathBuf> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_followed_wherever_they_stand() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/file"), "").unwrap();
        symlink("a", root.join("relative")).unwrap();
        symlink(root.join("a/b"), root.join("absolute")).unwrap();
        symlink("../file", root.join("a/b/up")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        let leads = |from: &str, last: bool| {
            let resolved = resolve(&root.join(from), last);
            let short = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
            let links: Vec<String> = resolved.links.iter().map(|link| short(link)).collect();
            (short(&resolved.path), links.join(" "))
        };
        let pair = |path: &str, links: &str| (path.to_owned(), links.to_owned());
        assert_eq!(leads("a/file", true), pair("a/file", ""));
        assert_eq!(leads("relative/file", true), pair("a/file", "relative"));
        assert_eq!(leads("absolute/../file", true), pair("a/file", "absolute"));
        assert_eq!(
            leads("relative/b/up", true),
            pair("a/file", "relative a/b/up")
        );
        assert_eq!(leads("relative/b/up", false), pair("a/b/up", "relative"));
        assert_eq!(leads("relative/gone/../x", true), pair("a/x", "relative"));
        assert_eq!(leads("gone", true), pair("gone", ""));
        assert_eq!(leads("circle", true).0, "circle");
    }
}
