//! Reading a log line by line, in bounded memory, whatever it holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::MAX_LINE;
use crate::entry::Decision;
use crate::file;
use crate::record::{Record, RecordError};

/// Reads a log's lines in order; what is no record is reported in its place, and reading goes on.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    lines: Lines<BufReader<File>>,
    offset: u64,
    follow: bool,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it begins, in bytes from the start of the log.
    pub offset: u64,
    /// The line itself without its newline, where it is a record: valid JSON without control characters.
    pub text: String,
    /// What it says, or why it is no record.
    pub record: Result<Record, RecordError>,
}

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("could not read the audit log `{}`", path.display())]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

impl Reader {
    /// Opens a log at its beginning.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not a regular file.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::open_at(path, |_| Ok(0))
    }

    /// Opens a log at the beginning of its last `count` lines.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`].
    pub fn open_tail(path: &Path, count: usize) -> Result<Self, ReadError> {
        Self::open_at(path, |file| start_of_last(file, count))
    }

    fn open_at(
        path: &Path,
        start: impl FnOnce(&File) -> io::Result<u64>,
    ) -> Result<Self, ReadError> {
        let open = || {
            let mut file = file::open_to_read(path)?;
            let offset = start(&file)?;
            file.seek(SeekFrom::Start(offset))?;
            Ok((file, offset))
        };
        match open() {
            Ok((file, offset)) => Ok(Self {
                path: path.to_owned(),
                lines: Lines::new(BufReader::new(file)),
                offset,
                follow: false,
            }),
            Err(source) => Err(ReadError {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The same reader for a log that is still growing: a line without an end is held back, not reported, and after
    /// its last line `next` may be called again later.
    #[must_use]
    pub fn following(mut self) -> Self {
        self.follow = true;
        self.lines.keep_partial = true;
        self
    }

    /// Forgets the piece of a line at the end, to read it again as a whole: it may be an entry that is being written,
    /// or one that a crash cut short and that the next writer moves away to write something else in its place.
    fn go_back(&mut self) -> io::Result<()> {
        let length = self.lines.reader.get_ref().metadata()?.len();
        // Lines that a write left on a full disk, and that were cut off again before anyone was told of them.
        self.offset = self.offset.min(length);
        self.lines.reader.seek(SeekFrom::Start(self.offset))?;
        self.lines.forget();
        Ok(())
    }
}

impl Iterator for Reader {
    type Item = Result<Line, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let result = match self.lines.next() {
            Ok(Some(raw)) => {
                let offset = self.offset;
                self.offset += raw.length + u64::from(raw.ended);
                return Some(Ok(line(offset, &raw)));
            }
            Ok(None) if self.follow => self.go_back(),
            Ok(None) => Ok(()),
            Err(source) => Err(source),
        };
        let source = result.err()?;
        Some(Err(ReadError {
            path: self.path.clone(),
            source,
        }))
    }
}

fn line(offset: u64, raw: &RawLine<'_>) -> Line {
    let record = if raw.too_long {
        Err(RecordError::TooLong)
    } else if !raw.ended {
        Err(RecordError::Torn)
    } else {
        Record::parse(raw.bytes)
    };
    let text = match &record {
        Ok(_) => String::from_utf8_lossy(raw.bytes).into_owned(),
        Err(_) => String::new(),
    };
    Line {
        offset,
        text,
        record,
    }
}

/// Which records are wanted: those that fit every part that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The agent's name, whole.
    pub agent: Option<String>,
    /// The run, whole.
    pub run: Option<String>,
    /// The action, whole.
    pub action: Option<String>,
    /// The decision.
    pub decision: Option<Decision>,
    /// A part of the resource.
    pub resource: Option<String>,
    /// A part of the line's text.
    pub text: Option<String>,
    /// The earliest time, included.
    pub since: Option<Timestamp>,
    /// The latest time, excluded.
    pub until: Option<Timestamp>,
}

impl Filter {
    /// Whether a line is wanted. A line that is no record always is: it must not hide.
    pub fn wants(&self, line: &Line) -> bool {
        let Ok(record) = &line.record else {
            return true;
        };
        let entry = &record.entry;
        let same = |wanted: &Option<String>, got: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == got
        };
        let holds = |part: &Option<String>, text: &str| {
            part.as_deref().is_none_or(|part| text.contains(part))
        };
        let instant = record.instant();
        same(&self.agent, entry.agent_id.as_deref())
            && same(&self.run, entry.run_id.as_deref())
            && same(&self.action, Some(&entry.action))
            && (self.decision.is_none() || self.decision == entry.policy_decision)
            && holds(
                &self.resource,
                entry.resource.as_deref().unwrap_or_default(),
            )
            && holds(&self.text, &line.text)
            && self.since.is_none_or(|since| instant >= Some(since))
            && self.until.is_none_or(|until| instant < Some(until))
    }
}

/// Where the last `count` lines begin. A piece without an end counts as a line.
fn start_of_last(file: &File, count: usize) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = size;
    let mut found = 0;
    let mut block = vec![0; 64 * 1024];
    while end > 0 && count > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let part = &mut block[..usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(part, start)?;
        for (index, byte) in part.iter().enumerate().rev() {
            let after = start + index as u64 + 1;
            if *byte == b'\n' && after < size {
                found += 1;
                if found == count {
                    return Ok(after);
                }
            }
        }
        end = start;
    }
    Ok(if count == 0 { size } else { 0 })
}

/// Splits bytes into lines of at most [`MAX_LINE`]; what is longer is skipped, not stored.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    length: u64,
    /// The buffer holds a line that was handed out.
    done: bool,
    /// Wait for the end of a line instead of handing out a piece.
    keep_partial: bool,
}

/// One line as it stands.
#[derive(Debug)]
pub(crate) struct RawLine<'a> {
    /// Without the newline; the first bytes only where it is too long.
    pub(crate) bytes: &'a [u8],
    /// The whole length without the newline.
    pub(crate) length: u64,
    /// Whether there was a newline.
    pub(crate) ended: bool,
    /// Whether it is longer than [`MAX_LINE`].
    pub(crate) too_long: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            length: 0,
            done: false,
            keep_partial: false,
        }
    }

    /// Forgets the line in hand.
    fn forget(&mut self) {
        self.buffer.clear();
        self.length = 0;
        self.done = false;
    }

    pub(crate) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        if self.done {
            self.forget();
        }
        loop {
            let available = match self.reader.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                if self.length == 0 || self.keep_partial {
                    return Ok(None);
                }
                return Ok(Some(self.hand_out(false)));
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let length = newline.unwrap_or(available.len());
            let space = (MAX_LINE + 1).saturating_sub(self.buffer.len());
            self.buffer
                .extend_from_slice(&available[..length.min(space)]);
            self.length += length as u64;
            self.reader.consume(length + usize::from(newline.is_some()));
            if newline.is_some() {
                return Ok(Some(self.hand_out(true)));
            }
        }
    }

    fn hand_out(&mut self, ended: bool) -> RawLine<'_> {
        self.done = true;
        RawLine {
            bytes: &self.buffer,
            length: self.length,
            ended,
            too_long: self.buffer.len() > MAX_LINE,
        }
    }
}
