//! Proving that a log is whole, or naming the first entry that is bad.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::encode::{GENESIS, digest};
use crate::file;
use crate::head::{HEAD, Head, HeadError};
use crate::read::Lines;
use crate::record::{Record, RecordError};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How many entries are good, counted from the first.
    pub entries: u64,
    /// The first that is bad. Nothing after it was looked at.
    pub first_bad: Option<Bad>,
    /// The head file.
    pub head: HeadState,
}

/// The first bad entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The line in the log, from 1; for what is missing, the line where it should stand.
    pub line: u64,
    /// The entry's number: what it says, or where it says nothing, what belongs there.
    pub sequence: u64,
    /// What is wrong.
    pub kind: BadKind,
    /// The same for a person.
    pub message: String,
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadKind {
    /// The line is not an entry.
    Malformed,
    /// An object in the line names a key twice.
    DuplicateKey,
    /// The line was changed: the digest of it that was kept elsewhere is another.
    Changed,
    /// One or more lines before this one are missing.
    Removed,
    /// The line stands in another's place.
    Moved,
    /// The line does not belong.
    Inserted,
    /// Entries are missing at the end.
    CutTail,
    /// The last line has no end.
    Torn,
    /// The entry comes after the last one that the head file knows.
    BeyondHead,
    /// There is no usable head file, so that nobody can tell whether entries are missing at the end.
    Head,
}

impl Serialize for BadKind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl BadKind {
    /// The word in reports for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::DuplicateKey => "duplicate_key",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Moved => "moved",
            Self::Inserted => "inserted",
            Self::CutTail => "cut_tail",
            Self::Torn => "torn",
            Self::BeyondHead => "beyond_head",
            Self::Head => "head",
        }
    }
}

/// The head file as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeadState {
    /// It is well formed and says this.
    Present(Head),
    /// There is none.
    Missing,
    /// It is not as it was written.
    Malformed,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The system refuses.
    #[error("could not read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A writer holds the log.
    #[error("the audit log `{}` was locked by another process for a minute; try again", path.display())]
    Busy {
        /// The log.
        path: PathBuf,
    },
}

/// Verifies a log against itself and its head file.
///
/// The log and the head are read as they are at one moment, under a shared lock, which is let go before the entries
/// are read: a running writer is not held up. Memory is bounded by the longest line.
///
/// # Errors
///
/// The log cannot be read at all. Everything else is in the report.
pub fn verify(path: &Path) -> Result<Report, VerifyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| VerifyError::Io { path, source }
    };
    let log = file::open_to_read(path).map_err(failed(path))?;
    if !file::lock(&log, FlockOperation::NonBlockingLockShared).map_err(failed(path))? {
        return Err(VerifyError::Busy {
            path: path.to_owned(),
        });
    }
    let size = log.metadata().map_err(failed(path))?.len();
    let head_path = head_path(path);
    let head = read_head(&head_path).map_err(failed(&head_path))?;
    flock(&log, FlockOperation::Unlock)
        .map_err(io::Error::from)
        .map_err(failed(path))?;
    check(&log, size, head).map_err(failed(path))
}

fn head_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(HEAD);
    PathBuf::from(name)
}

fn read_head(path: &Path) -> io::Result<HeadState> {
    let file = match file::open_to_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HeadState::Missing),
        Err(error) => return Err(error),
    };
    match Head::read(&file) {
        Ok(head) => Ok(HeadState::Present(head)),
        Err(HeadError::Io(error)) => Err(error),
        Err(HeadError::Malformed | HeadError::Missing) => Ok(HeadState::Malformed),
    }
}

fn check(log: &File, size: u64, head: HeadState) -> io::Result<Report> {
    let mut lines = Lines::new(BufReader::with_capacity(64 * 1024, log.take(size)));
    let mut walk = Walk::new(match &head {
        HeadState::Present(head) => Some(head),
        HeadState::Missing | HeadState::Malformed => None,
    });
    let mut first_bad = None;
    let mut ahead = next(&mut lines)?;
    while let Some(found) = ahead {
        ahead = next(&mut lines)?;
        first_bad = walk.step(found, ahead.as_ref());
        if first_bad.is_some() {
            break;
        }
    }
    let first_bad = first_bad.or_else(|| walk.end(size, &head));
    Ok(Report {
        entries: first_bad
            .as_ref()
            .map_or(walk.count, |bad| walk.count.min(bad.line - 1)),
        first_bad,
        head,
    })
}

/// What verification needs of one line.
struct Found {
    digest: String,
    parsed: Result<(u64, String), RecordError>,
}

fn next(lines: &mut Lines<impl io::BufRead>) -> io::Result<Option<Found>> {
    let Some(raw) = lines.next()? else {
        return Ok(None);
    };
    let parsed = if raw.too_long {
        Err(RecordError::TooLong)
    } else if !raw.ended {
        Err(RecordError::Torn)
    } else {
        Record::parse(raw.bytes).map(|record| (record.sequence, record.previous))
    };
    Ok(Some(Found {
        digest: digest(raw.bytes),
        parsed,
    }))
}

/// A walk along the chain.
struct Walk<'a> {
    head: Option<&'a Head>,
    /// How many entries are good so far.
    count: u64,
    /// The digest of the last good entry.
    last: String,
    /// The digest of the one before.
    before: String,
}

impl<'a> Walk<'a> {
    fn new(head: Option<&'a Head>) -> Self {
        Self {
            head,
            count: 0,
            last: GENESIS.to_owned(),
            before: GENESIS.to_owned(),
        }
    }

    /// Looks at the next line, with the one after it at hand.
    fn step(&mut self, found: Found, ahead: Option<&Found>) -> Option<Bad> {
        let (sequence, previous) = match &found.parsed {
            Ok((sequence, previous)) => (*sequence, previous.as_str()),
            Err(error) => return Some(self.malformed(error)),
        };
        if sequence == self.count + 1 && previous == self.last {
            return self.accept(found.digest);
        }
        Some(self.diagnose(&found.digest, sequence, previous, ahead))
    }

    /// The line continues the chain; compares it with the head.
    fn accept(&mut self, digest: String) -> Option<Bad> {
        let line = self.count + 1;
        let bad = match self.head {
            Some(head) if line == head.sequence && digest != head.digest => Some(bad(
                line,
                line,
                BadKind::Changed,
                "the entry was changed: the head file keeps another digest of it".to_owned(),
            )),
            Some(head) if line > head.sequence => Some(bad(
                line,
                line,
                BadKind::BeyondHead,
                format!(
                    "the entry comes after entry {}, the last that the head file knows: a crash left it, which the next run puts right, or it was added",
                    head.sequence
                ),
            )),
            _ => None,
        };
        self.before = std::mem::replace(&mut self.last, digest);
        self.count = line;
        bad
    }

    fn malformed(&self, error: &RecordError) -> Bad {
        let line = self.count + 1;
        let cut = self.head.filter(|head| head.sequence >= line);
        let (kind, message) = match (error, cut) {
            (RecordError::DuplicateKey(_), _) => (BadKind::DuplicateKey, error.to_string()),
            (RecordError::Torn, Some(head)) => (
                BadKind::CutTail,
                format!(
                    "the log ends inside this entry; the head file knows entries up to {}",
                    head.sequence
                ),
            ),
            (RecordError::Torn, None) => (BadKind::Torn, error.to_string()),
            _ => (BadKind::Malformed, error.to_string()),
        };
        bad(line, line, kind, message)
    }

    /// The line does not continue the chain; finds out which line is to blame, and for what.
    fn diagnose(&self, digest: &str, sequence: u64, previous: &str, ahead: Option<&Found>) -> Bad {
        let line = self.count + 1;
        let next = ahead.and_then(|found| found.parsed.as_ref().ok());
        // What the next line, or for the last line the head, keeps as this one's digest.
        let vouched = match (next, ahead, self.head) {
            (Some((_, next_previous)), _, _) => next_previous == digest,
            (None, None, Some(head)) => head.digest == digest,
            _ => false,
        };
        if sequence == line {
            return if vouched && self.count > 0 {
                changed(self.count)
            } else {
                changed(line)
            };
        }
        let follows = previous == self.last;
        if follows && next.is_none_or(|(number, _)| *number == line + 1) {
            return changed(line);
        }
        if sequence > line {
            return match next {
                Some((number, _)) if sequence.checked_add(1) != Some(*number) => bad(
                    line,
                    sequence,
                    BadKind::Moved,
                    format!("entry {sequence} stands where entry {line} belongs"),
                ),
                _ => bad(line, line, BadKind::Removed, missing(line, sequence - 1)),
            };
        }
        let resumes = next.is_some_and(|(_, next_previous)| *next_previous == self.last);
        if sequence == self.count && previous == self.before && digest != self.last && !resumes {
            return bad(
                self.count,
                self.count,
                BadKind::Inserted,
                format!("the line was inserted: the true entry {sequence} comes after it"),
            );
        }
        bad(
            line,
            sequence,
            BadKind::Inserted,
            format!(
                "the line was inserted: it says entry {sequence}, and entry {line} belongs here"
            ),
        )
    }

    /// The end of the log was reached without a bad line.
    fn end(&self, size: u64, state: &HeadState) -> Option<Bad> {
        let line = self.count + 1;
        let message = match (self.head, state) {
            (Some(head), _) if head.sequence > self.count => {
                return Some(bad(
                    line,
                    line,
                    BadKind::CutTail,
                    missing(line, head.sequence) + " at the end",
                ));
            }
            (Some(head), _) if head.bytes != size || head.digest != self.last => {
                "the head file does not fit the last entry"
            }
            (Some(_), _) => return None,
            (None, HeadState::Missing) => {
                "the head file is missing: nobody can tell whether entries were cut off the end"
            }
            (None, _) => {
                "the head file was changed: nobody can tell whether entries were cut off the end"
            }
        };
        Some(bad(line, line, BadKind::Head, message.to_owned()))
    }
}

fn missing(first: u64, last: u64) -> String {
    if first == last {
        format!("entry {first} is missing")
    } else {
        format!("entries {first} to {last} are missing")
    }
}

fn changed(line: u64) -> Bad {
    bad(
        line,
        line,
        BadKind::Changed,
        "the entry was changed: the chain keeps another digest".to_owned(),
    )
}

fn bad(line: u64, sequence: u64, kind: BadKind, message: String) -> Bad {
    Bad {
        line,
        sequence,
        kind,
        message,
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}
