//! Programs: what a rule about execution speaks of.

use std::fmt::Write;

use nemoclaw_common::MAX_NAME_BYTES;
use serde::{Serialize, Serializer};

use crate::bind::Bindings;
use crate::diagnostic::quote;
use crate::path::PathError;
use crate::pattern::{PathPattern, PatternError, Template, Variables};

/// The directories in which a bare program name is looked for, besides those of the `PATH` that
/// the policy sets.
pub const PATH_DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// A program, as the planner looks for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// A file name. Allowed: on the agent's `PATH`; withheld: at any place.
    Name(String),
    /// Any file that the pattern matches.
    Path(PathPattern),
    /// Any file with this SHA-256 digest.
    Digest(#[serde(serialize_with = "serialize_digest")] [u8; 32]),
}

/// A program as the policy's text has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProgramTemplate {
    /// A file name.
    Name(String),
    /// A pattern of paths.
    Path(Template),
    /// A SHA-256 digest.
    Digest([u8; 32]),
}

impl ProgramTemplate {
    pub(crate) fn parse(text: &str, variables: Variables<'_>) -> Result<Self, PatternError> {
        if let Some(digits) = text.strip_prefix("sha256:") {
            return digest(digits)
                .map(Self::Digest)
                .ok_or_else(|| PatternError {
                    message: format!("{} is no SHA-256 digest", quote(text)),
                    hint: "write `sha256:` and 64 hexadecimal digits, as `sha256sum` prints them"
                        .to_owned(),
                });
        }
        if text.contains('/') || text.starts_with(['~', '$']) {
            return Template::parse(text, variables).map(Self::Path);
        }
        // The checks of a file name are those of a pattern.
        Template::parse(text, variables)?;
        if text.contains('*') {
            return Err(PatternError {
                message: format!("the program name {} holds `*`", quote(text)),
                hint: format!(
                    "write a path, such as {}",
                    quote(&format!("/usr/bin/{text}"))
                ),
            });
        }
        if text.contains(char::is_whitespace) {
            return Err(PatternError {
                message: format!("the program name {} holds a space", quote(text)),
                hint: "name the program without its arguments".to_owned(),
            });
        }
        debug_assert!(text.len() <= MAX_NAME_BYTES);
        Ok(Self::Name(text.to_owned()))
    }

    pub(crate) fn bind(&self, bindings: &Bindings<'_>) -> Result<Program, PathError> {
        Ok(match self {
            Self::Name(name) => Program::Name(name.clone()),
            Self::Path(template) => Program::Path(template.bind(bindings)?),
            Self::Digest(digest) => Program::Digest(*digest),
        })
    }
}

impl Serialize for ProgramTemplate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Path(template) => serializer.serialize_str(template.text()),
            Self::Digest(digest) => serialize_digest(digest, serializer),
        }
    }
}

fn serialize_digest<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::from("sha256:");
    for byte in digest {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_str(&text)
}

fn digest(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}
