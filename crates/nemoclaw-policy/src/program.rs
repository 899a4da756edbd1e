//! Programs: what a rule about execution speaks of.

use std::fmt::Write;

use serde::{Serialize, Serializer};

use crate::bind::Bindings;
use crate::diagnostic::quote;
use crate::glob::Component;
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
        let template = Template::parse(text, variables)?;
        let name = match template.name() {
            None => return Ok(Self::Path(template)),
            Some(Component::Literal(name)) => name,
            Some(_) => {
                return Err(PatternError {
                    message: format!("the program name {} holds `*`", quote(text)),
                    hint: format!(
                        "write a path, such as {}",
                        quote(&format!("/usr/bin/{text}"))
                    ),
                });
            }
        };
        if name.contains(char::is_whitespace) {
            return Err(PatternError {
                message: format!("the program name {} holds a space", quote(text)),
                hint: "name the program without its arguments".to_owned(),
            });
        }
        Ok(Self::Name(name.clone()))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn program(text: &str) -> Result<ProgramTemplate, PatternError> {
        ProgramTemplate::parse(text, &|word| match word {
            "name" => Some("agent".to_owned()),
            "SPACED" => Some("a b".to_owned()),
            "STARRED" => Some("/data/*".to_owned()),
            "DIRECTORY" => Some("/opt/tools".to_owned()),
            _ if word.len() > 200 => Some("x".to_owned()),
            _ => None,
        })
    }

    fn name(text: &str) -> ProgramTemplate {
        ProgramTemplate::Name(text.to_owned())
    }

    #[test]
    fn variables_in_a_program_name_are_filled_in() {
        assert_eq!(program("python3"), Ok(name("python3")));
        assert_eq!(program("${name}"), Ok(name("agent")));
        assert_eq!(program("my-${name}.sh"), Ok(name("my-agent.sh")));
        assert_eq!(program(&format!("${{{}}}", "V".repeat(250))), Ok(name("x")));
        assert!(matches!(
            program("${DIRECTORY}/run"),
            Ok(ProgramTemplate::Path(_))
        ));
        assert!(matches!(program("~"), Ok(ProgramTemplate::Path(_))));
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for bad in [
            "",
            "py*",
            "git push",
            "a${SPACED}",
            "${STARRED}",
            "${STARRED}/x",
            "${unknown}",
            "bin/python",
            "sha256:00",
            "..",
        ] {
            assert!(program(bad).is_err(), "{bad:?}");
        }
    }
}
