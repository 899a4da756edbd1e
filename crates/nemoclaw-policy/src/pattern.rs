//! Path patterns: what a rule about files speaks of.
//!
//! A [`Template`] is a pattern as the policy's text has it, which may begin at a home or working
//! directory not known yet. A [`PathPattern`] is one whose every component is known.

use std::fmt;

use nemoclaw_common::{MAX_NAME_BYTES, MAX_PATH_BYTES};
use serde::{Serialize, Serializer};

use crate::bind::Bindings;
use crate::glob::{self, Component};
use crate::path::{PathError, SandboxPath, components};

/// Which paths at and below its anchor a pattern speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tail {
    /// Exactly the anchor.
    This,
    /// The anchor and everything under it.
    Beneath,
    /// Something else below the anchor; ask [`PathPattern::matches`].
    Glob,
    /// A file name at any depth; the anchor is the root.
    Name,
}

/// A pattern of paths inside the sandbox.
// INVARIANT: `anchor`, `tail` and `rest` were made from one another by `from_components`; reading
// them is fine, a pattern is changed by making another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct PathPattern {
    /// The longest prefix without a wildcard.
    pub anchor: SandboxPath,
    /// What the pattern speaks of at and below the anchor.
    pub tail: Tail,
    /// The pattern as text, with home, working directory and variables filled in.
    pub text: String,
    #[serde(skip)]
    rest: Vec<Component>,
}

impl PathPattern {
    /// Reads a pattern that begins with `/` or is a bare file name.
    ///
    /// # Errors
    ///
    /// When the text is no pattern, or begins with `~` or a variable.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let template = Template::parse(text, &|_| None)?;
        match template.head {
            Head::Root | Head::Name => template.bind_onto(&[]).map_err(PatternError::from),
            Head::Home | Head::Workdir => Err(PatternError::new(
                "the pattern needs a home or working directory",
                "begin it with `/`",
            )),
        }
    }

    /// Exactly this path.
    #[must_use]
    pub fn this(path: SandboxPath) -> Self {
        Self {
            text: path.as_str().to_owned(),
            anchor: path,
            tail: Tail::This,
            rest: Vec::new(),
        }
    }

    /// This directory and everything under it.
    #[must_use]
    pub fn beneath(path: SandboxPath) -> Self {
        let text = if path.as_str() == "/" {
            "/*".to_owned()
        } else {
            format!("{path}/*")
        };
        Self {
            anchor: path,
            tail: Tail::Beneath,
            text,
            rest: vec![Component::AnyDepth],
        }
    }

    fn from_components(all: Vec<Component>, name: bool, text: String) -> Result<Self, PathError> {
        let literal = all
            .iter()
            .take_while(|part| matches!(part, Component::Literal(_)))
            .count();
        let mut anchor = String::new();
        for part in all.iter().take(literal) {
            if let Component::Literal(part) = part {
                anchor.push('/');
                anchor.push_str(part);
            }
        }
        if anchor.is_empty() {
            anchor.push('/');
        }
        let rest: Vec<Component> = all.into_iter().skip(literal).collect();
        let tail = match rest.as_slice() {
            _ if name => Tail::Name,
            [] => Tail::This,
            [Component::AnyDepth] => Tail::Beneath,
            _ => Tail::Glob,
        };
        Ok(Self {
            anchor: SandboxPath::try_from(anchor.as_str())?,
            tail,
            text,
            rest,
        })
    }

    /// Whether the pattern speaks of this path. The directory before a trailing `/*` is included.
    ///
    /// This is the question for an allowance. A path that is not absolute and normal is never
    /// matched.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match SandboxPath::try_from(path) {
            Ok(path) => {
                let parts: Vec<&str> = path.components().collect();
                self.matches_components(&parts)
            }
            Err(_) => false,
        }
    }

    /// Whether the pattern speaks of this path or of a directory that holds it.
    ///
    /// This is the question for a denial or an approval: what is withheld of a directory is
    /// withheld of its content. A path that is not absolute and normal is always covered.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        match SandboxPath::try_from(path) {
            Ok(path) => {
                let parts: Vec<&str> = path.components().collect();
                self.covers_components(&parts)
            }
            Err(_) => true,
        }
    }

    /// The literal file name of a [`Tail::Name`] pattern without a wildcard.
    #[must_use]
    pub fn literal_name(&self) -> Option<&str> {
        match (self.tail, self.rest.last()) {
            (Tail::Name, Some(Component::Literal(name))) => Some(name),
            _ => None,
        }
    }

    pub(crate) fn matches_components(&self, path: &[&str]) -> bool {
        self.below_anchor(path)
            .is_some_and(|rest| glob::matches(&self.rest, rest))
    }

    pub(crate) fn covers_components(&self, path: &[&str]) -> bool {
        self.below_anchor(path)
            .is_some_and(|rest| glob::covers(&self.rest, rest))
    }

    /// As `matches_components`, but without the directory before a trailing `/*`.
    pub(crate) fn matches_content(&self, path: &[&str]) -> bool {
        match (self.rest.last(), path.split_last()) {
            (Some(Component::AnyDepth), Some((_, parent))) => self.matches_components(parent),
            (Some(Component::AnyDepth), None) => false,
            _ => self.matches_components(path),
        }
    }

    fn below_anchor<'p, 's>(&self, path: &'p [&'s str]) -> Option<&'p [&'s str]> {
        let mut depth = 0;
        for name in self.anchor.components() {
            if path.get(depth) != Some(&name) {
                return None;
            }
            depth += 1;
        }
        path.get(depth..)
    }

    /// Every component, the anchor's included.
    pub(crate) fn all_components(&self) -> Vec<Component> {
        let anchor = self
            .anchor
            .components()
            .map(|name| Component::Literal(name.to_owned()));
        anchor.chain(self.rest.iter().cloned()).collect()
    }

    /// How narrowly the pattern speaks; the greater of two is the more specific.
    pub(crate) fn specificity(&self) -> (usize, usize, usize) {
        let rank = match self.tail {
            Tail::This => 3,
            Tail::Glob => 2,
            Tail::Name => 1,
            Tail::Beneath => 0,
        };
        let literal = self
            .rest
            .iter()
            .map(Component::literal_chars)
            .sum::<usize>();
        (self.anchor.components().count(), rank, literal)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where a pattern begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Head {
    /// At the root.
    Root,
    /// In the person's home directory.
    Home,
    /// In the working directory.
    Workdir,
    /// Nowhere: it is a file name at any depth.
    Name,
}

/// A pattern as the policy's text has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    pub(crate) head: Head,
    parts: Vec<Component>,
    text: String,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl PatternError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl From<PathError> for PatternError {
    fn from(error: PathError) -> Self {
        Self::new(error.to_string(), "shorten it")
    }
}

/// The value of a variable other than `workdir`, by its name.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Template {
    /// The pattern as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file name of a pattern that is one, its variables filled in.
    pub(crate) fn name(&self) -> Option<&Component> {
        match self.head {
            Head::Name => self.parts.last(),
            Head::Root | Head::Home | Head::Workdir => None,
        }
    }

    pub(crate) fn parse(text: &str, variables: Variables<'_>) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::new(
                "the pattern is empty",
                "name a path, or remove the entry",
            ));
        }
        if text.len() > MAX_PATH_BYTES {
            return Err(PatternError::new(
                format!("the pattern is longer than {MAX_PATH_BYTES} bytes"),
                "no path can be that long",
            ));
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::new(
                "the pattern holds a control character",
                "match it with `*`",
            ));
        }
        if text.trim() != text {
            return Err(PatternError::new(
                "the pattern begins or ends with a space",
                "remove the space, or match it with `*`",
            ));
        }
        let (head, lead, rest) = split_head(text, variables)?;
        let mut parts: Vec<Component> = lead.into_iter().map(Component::Literal).collect();
        if head == Head::Name {
            parts.push(Component::AnyDepth);
            parts.push(component(rest, variables)?);
            if parts.last() == Some(&Component::AnyDepth) {
                return Err(PatternError::new(
                    "a file name is one component, and `**` stands for several",
                    "write `*` for any name, or `/**` for everything",
                ));
            }
            return Ok(Self {
                head,
                parts,
                text: text.to_owned(),
            });
        }
        let names: Vec<&str> = if rest.is_empty() {
            Vec::new()
        } else {
            rest.split('/').collect()
        };
        let last = names.len().saturating_sub(1);
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() {
                return Err(if index == last {
                    PatternError::new(
                        "the pattern ends with `/`",
                        "write `/*` at its end for everything beneath, or no `/` for the thing itself",
                    )
                } else {
                    PatternError::new("the pattern holds `//`", "write one `/`")
                });
            }
            let part = if index == last && *name == "*" {
                Component::AnyDepth
            } else {
                component(name, variables)?
            };
            if part != Component::AnyDepth || parts.last() != Some(&Component::AnyDepth) {
                parts.push(part);
            }
        }
        Ok(Self {
            head,
            parts,
            text: text.to_owned(),
        })
    }

    /// Fills in the directories that were not known when the text was read.
    pub(crate) fn bind(&self, bindings: &Bindings<'_>) -> Result<PathPattern, PathError> {
        let base = match self.head {
            Head::Root | Head::Name => "/",
            Head::Home => bindings.home,
            Head::Workdir => bindings.workdir,
        };
        let base: Vec<&str> = components(base).collect();
        self.bind_onto(&base)
    }

    fn bind_onto(&self, base: &[&str]) -> Result<PathPattern, PathError> {
        let base = base
            .iter()
            .map(|name| Component::Literal((*name).to_owned()));
        let all: Vec<Component> = base.chain(self.parts.iter().cloned()).collect();
        let text = if self.head == Head::Name {
            self.text.clone()
        } else {
            glob::text(&all)
        };
        PathPattern::from_components(all, self.head == Head::Name, text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// Where the pattern begins, the components that its variable stands for, and what follows.
fn split_head<'t>(
    text: &'t str,
    variables: Variables<'_>,
) -> Result<(Head, Vec<String>, &'t str), PatternError> {
    if let Some(rest) = text.strip_prefix('/') {
        return Ok((Head::Root, Vec::new(), rest));
    }
    if let Some(rest) = text.strip_prefix('~') {
        return match rest.strip_prefix('/') {
            Some(rest) => Ok((Head::Home, Vec::new(), rest)),
            None if rest.is_empty() => Ok((Head::Home, Vec::new(), rest)),
            None => Err(PatternError::new(
                "another person's home directory cannot be named with `~`",
                "write `~/…` for the home of who starts the agent, or the whole path",
            )),
        };
    }
    if let Some((name, rest)) = text
        .strip_prefix("${")
        .and_then(|rest| rest.split_once('}'))
    {
        let rest = match rest.strip_prefix('/') {
            Some(rest) => Some(rest),
            None if rest.is_empty() => Some(rest),
            None => None,
        };
        if name == "workdir" {
            let rest = rest.ok_or_else(|| {
                PatternError::new(
                    "`${workdir}` is a whole directory and must be followed by `/`",
                    "write `${workdir}/…`",
                )
            })?;
            return Ok((Head::Workdir, Vec::new(), rest));
        }
        let value = variables(name).ok_or_else(|| unknown_variable(name))?;
        if let (Ok(path), Some(rest)) = (SandboxPath::try_from(value.as_str()), rest)
            && !value.contains('*')
        {
            return Ok((
                Head::Root,
                path.components().map(str::to_owned).collect(),
                rest,
            ));
        }
        if text.contains('/') {
            return Err(PatternError::new(
                format!("`${{{name}}}` does not stand for an absolute directory here"),
                "begin the pattern with `/`, `~/` or `${workdir}/`",
            ));
        }
    }
    if text.contains('/') {
        return Err(PatternError::new(
            format!("the pattern {} is relative", crate::diagnostic::quote(text)),
            format!(
                "write {} for the working directory, or begin with `/` or `~/`",
                crate::diagnostic::quote(&format!(
                    "${{workdir}}/{}",
                    text.trim_start_matches("./")
                ))
            ),
        ));
    }
    Ok((Head::Name, Vec::new(), text))
}

fn unknown_variable(name: &str) -> PatternError {
    PatternError::new(
        format!(
            "nothing is known under the name {}",
            crate::diagnostic::quote(&format!("${{{name}}}"))
        ),
        "`${workdir}`, `${name}` and the names in `environment.set` are known; `~` is the home directory",
    )
}

/// One component, its variables filled in.
fn component(text: &str, variables: Variables<'_>) -> Result<Component, PatternError> {
    if text == "**" {
        return Ok(Component::AnyDepth);
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else {
            return Err(PatternError::new(
                "`${` is never closed",
                "write `}` after the name",
            ));
        };
        let value = variables(name).ok_or_else(|| unknown_variable(name))?;
        if value.is_empty() || value.contains(['/', '*']) || matches!(value.as_str(), "." | "..") {
            return Err(PatternError::new(
                format!("`${{{name}}}` stands for a path and cannot be part of a name"),
                "let the pattern begin with it",
            ));
        }
        check_literal(before)?;
        filled.push_str(before);
        filled.push_str(&value);
        rest = after;
    }
    check_literal(rest)?;
    filled.push_str(rest);
    if matches!(filled.as_str(), "." | "..") {
        return Err(PatternError::new(
            format!("the pattern holds `{filled}`"),
            "write the path that is meant, without `.` and `..`",
        ));
    }
    if filled.len() > MAX_NAME_BYTES {
        return Err(PatternError::new(
            format!("a component is longer than {MAX_NAME_BYTES} bytes"),
            "no file name can be that long",
        ));
    }
    if filled.contains("**") {
        return Err(PatternError::new(
            "`**` must stand alone between two `/`",
            "write `*` for any part of one name",
        ));
    }
    Ok(if filled.contains('*') {
        Component::Glob(filled)
    } else {
        Component::Literal(filled)
    })
}

fn check_literal(text: &str) -> Result<(), PatternError> {
    match text
        .chars()
        .find(|c| matches!(c, '?' | '[' | ']' | '{' | '}' | '\\'))
    {
        Some(found) => Err(PatternError::new(
            format!("`{found}` has no meaning in a pattern"),
            "write one pattern for each case, or `*` in its place",
        )),
        None => Ok(()),
    }
}
