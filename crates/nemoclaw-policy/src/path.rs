//! A path inside the sandbox: absolute and normal, checked once.

use std::fmt;

use nemoclaw_common::{MAX_NAME_BYTES, MAX_PATH_BYTES};
use serde::Serialize;

/// Why a text is no [`SandboxPath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("path {} is not absolute", crate::diagnostic::quote(.0))]
    Relative(String),
    /// It holds `.`, `..`, `//` or ends in `/`.
    #[error("path {} is not normal: it must hold no `.`, no `..`, no `//` and no `/` at its end", crate::diagnostic::quote(.0))]
    NotNormal(String),
    /// It holds a zero byte, which no path can.
    #[error("path {} holds a zero byte", crate::diagnostic::quote(.0))]
    ZeroByte(String),
    /// It is longer than the kernel takes: 4095 bytes, 255 for one component.
    #[error("path {} is longer than the kernel takes", crate::diagnostic::quote(.0))]
    TooLong(String),
}

/// A path inside the sandbox.
///
/// It is text only: no symbolic link has been followed and nothing needs to exist.
// INVARIANT: begins with `/`; no component is empty, `.` or `..`; no `/` at the end unless it is
// the root; no zero byte; at most MAX_PATH_BYTES long and MAX_NAME_BYTES in each component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct SandboxPath(String);

impl SandboxPath {
    /// The root directory.
    #[must_use]
    pub fn root() -> Self {
        Self("/".to_owned())
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The names from the root down; none for the root itself.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        components(&self.0)
    }

    /// The last name; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&str> {
        self.0.rsplit('/').next().filter(|name| !name.is_empty())
    }

    /// The directory that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.0 == "/" {
            return None;
        }
        let end = self.0.rfind('/').unwrap_or(0).max(1);
        Some(Self(self.0.get(..end)?.to_owned()))
    }

    /// Whether this path is `other` or stands anywhere beneath it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        match self.0.strip_prefix(&other.0) {
            Some(rest) => rest.is_empty() || other.0 == "/" || rest.starts_with('/'),
            None => false,
        }
    }
}

/// The names in a path that is absolute and normal.
pub(crate) fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|name| !name.is_empty())
}

impl TryFrom<&str> for SandboxPath {
    type Error = PathError;

    fn try_from(text: &str) -> Result<Self, PathError> {
        let owned = || text.to_owned();
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathError::Relative(owned()));
        };
        if text.contains('\0') {
            return Err(PathError::ZeroByte(owned()));
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong(owned()));
        }
        if rest.is_empty() {
            return Ok(Self::root());
        }
        for name in rest.split('/') {
            if matches!(name, "" | "." | "..") {
                return Err(PathError::NotNormal(owned()));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(PathError::TooLong(owned()));
            }
        }
        Ok(Self(owned()))
    }
}

impl TryFrom<String> for SandboxPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        Self::try_from(text.as_str())
    }
}

impl AsRef<std::path::Path> for SandboxPath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_and_normal_paths_are_taken() {
        for good in ["/", "/a", "/a/b.c", "/a/...", "/ a"] {
            assert_eq!(SandboxPath::try_from(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "a", "a/b", "~/a", "//", "/a/", "/a//b", "/.", "/a/..", "/../a", "/a\0b",
        ] {
            assert!(SandboxPath::try_from(bad).is_err(), "{bad:?}");
        }
        assert!(SandboxPath::try_from(format!("/{}", "x".repeat(256))).is_err());
        assert!(SandboxPath::try_from("/x".repeat(2_500)).is_err());
    }

    #[test]
    fn being_within_respects_component_boundaries() {
        let path = |text| SandboxPath::try_from(text).unwrap();
        assert!(path("/a/b").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/a")));
        assert!(path("/a").is_within(&path("/")));
        assert!(!path("/ab").is_within(&path("/a")));
        assert!(!path("/").is_within(&path("/a")));
    }

    #[test]
    fn the_parent_of_a_top_directory_is_the_root() {
        let path = |text| SandboxPath::try_from(text).unwrap();
        assert_eq!(path("/a").parent(), Some(path("/")));
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/").parent(), None);
        assert_eq!(path("/a/b").file_name(), Some("b"));
        assert_eq!(path("/").file_name(), None);
    }
}
