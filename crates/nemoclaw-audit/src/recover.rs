//! What a crash left: read under the lock, put right, and told.
//!
//! ```text
//! head.bytes         size
//! |                  |
//! |entry\n entry\n en|        whole entries that chain are adopted; the torn piece is moved aside
//! ```
//!
//! Nothing else is touched: a log that is shorter than its head, or that does not chain, is refused.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{AtFlags, OFlags, unlinkat};

use crate::MAX_LINE;
use crate::encode;
use crate::entry::Entry;
use crate::file::Place;
use crate::head::{Head, HeadError};
use crate::log::{Durability, LogError};
use crate::read::Lines;
use crate::record::Record;

/// How many torn pieces are kept beside one log.
const MAX_TORN: u32 = 1000;

/// The state of a log that was read.
pub(crate) struct Loaded {
    pub(crate) head: Head,
    /// The entry that tells what was put right.
    pub(crate) recovered: Option<Entry>,
}

/// Reads the head and what lies after it.
pub(crate) fn load(place: &Place, file: &File, durability: Durability) -> Result<Loaded, LogError> {
    let path = &place.path;
    let size = file
        .metadata()
        .map_err(|source| LogError::io("look at", path, source))?
        .len();
    let head = match Head::load(place) {
        // A log that was just made, or whose making was cut short: the head comes before the first entry.
        Err(LogError::Head {
            source: HeadError::Missing,
            ..
        }) if size == 0 => Head::begin(place, durability == Durability::EveryBatch)?,
        other => other?,
    };
    check_last_entry(path, file, &head, size)?;
    let tail = read_tail(path, file, head, size)?;
    let torn_bytes = size - tail.head.bytes;
    if tail.adopted == 0 && torn_bytes == 0 {
        return Ok(Loaded {
            head: tail.head,
            recovered: None,
        });
    }
    let mut done = Vec::new();
    let mut entry = Entry::new("recover").with_detail("adopted", tail.adopted);
    if tail.adopted > 0 {
        done.push(format!(
            "{} entries after the head were adopted",
            tail.adopted
        ));
    }
    if torn_bytes > 0 {
        let name = move_aside(place, file, tail.head.bytes)?;
        done.push(format!(
            "{torn_bytes} bytes of a torn entry were moved to `{name}`"
        ));
        entry = entry
            .with_detail("torn_bytes", torn_bytes)
            .with_detail("torn_file", name);
    }
    entry.reason = Some(done.join("; "));
    Ok(Loaded {
        head: tail.head,
        recovered: Some(entry),
    })
}

/// Compares the line that ends where the head says with the digest there.
fn check_last_entry(path: &Path, file: &File, head: &Head, size: u64) -> Result<(), LogError> {
    let broken = |what: String| LogError::Chain {
        path: path.to_owned(),
        what,
    };
    if size < head.bytes {
        return Err(broken(format!(
            "it has {size} bytes and the head names {} bytes and {} entries",
            head.bytes, head.sequence
        )));
    }
    if head.bytes == 0 {
        return if *head == Head::empty() {
            Ok(())
        } else {
            Err(broken("the head of an empty log names an entry".to_owned()))
        };
    }
    let line =
        line_before(file, head.bytes).map_err(|source| LogError::io("read", path, source))?;
    let fits = line.is_some_and(|line| {
        encode::digest(&line) == head.digest
            && Record::parse(&line).is_ok_and(|it| it.sequence == head.sequence)
    });
    if fits {
        Ok(())
    } else {
        Err(broken(format!(
            "entry {} is not the one that the head names",
            head.sequence
        )))
    }
}

/// The line whose newline is the byte before `end`.
fn line_before(file: &File, end: u64) -> io::Result<Option<Vec<u8>>> {
    let longest = MAX_LINE as u64 + 2;
    let mut length = 4096;
    loop {
        let start = end.saturating_sub(length);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or_default()];
        file.read_exact_at(&mut bytes, start)?;
        if bytes.pop() != Some(b'\n') {
            return Ok(None);
        }
        match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(before) => return Ok(Some(bytes.split_off(before + 1))),
            None if start == 0 => return Ok(Some(bytes)),
            None if length > longest => return Ok(None),
            None => length *= 4,
        }
    }
}

/// What lies after the head.
struct Tail {
    /// The head after the adopted entries; where the torn piece begins.
    head: Head,
    adopted: u64,
}

fn read_tail(path: &Path, file: &File, mut head: Head, size: u64) -> Result<Tail, LogError> {
    let mut lines = Lines::new(BufReader::new(From {
        file,
        offset: head.bytes,
        end: size,
    }));
    let mut adopted = 0;
    while let Some(raw) = lines
        .next()
        .map_err(|source| LogError::io("read", path, source))?
    {
        // A loss of power may leave a hole of zeros where a block did not reach the disk; no entry holds one.
        if !raw.ended || raw.bytes.contains(&0) {
            break;
        }
        let sequence = head.sequence.saturating_add(1);
        let fits = !raw.too_long
            && Record::parse(raw.bytes)
                .is_ok_and(|it| it.sequence == sequence && it.previous == head.digest);
        if !fits {
            return Err(LogError::Chain {
                path: path.to_owned(),
                what: format!(
                    "the line after entry {} does not continue it",
                    head.sequence
                ),
            });
        }
        head = Head {
            sequence,
            digest: encode::digest(raw.bytes),
            bytes: head.bytes + raw.bytes.len() as u64 + 1,
        };
        adopted += 1;
    }
    Ok(Tail { head, adopted })
}

/// Copies everything from `start` to a new file beside the log, durably, then cuts it off. Returns the file's name.
fn move_aside(place: &Place, file: &File, start: u64) -> Result<String, LogError> {
    for number in 1..=MAX_TORN {
        let suffix = format!("torn-{number}");
        let mut torn = match place.open(&suffix, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL) {
            Ok(torn) => torn,
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut rest = From {
            file,
            offset: start,
            end: u64::MAX,
        };
        let moved = io::copy(&mut rest, &mut torn)
            .and_then(|_| torn.sync_all())
            .and_then(|()| place.sync_directory())
            .inspect_err(|_| {
                // Nothing is lost: the piece is still in the log.
                let _ = unlinkat(&place.directory, place.name(&suffix), AtFlags::empty());
            })
            .and_then(|()| file.set_len(start));
        return match moved {
            Ok(()) => Ok(place.name(&suffix).to_string_lossy().into_owned()),
            Err(source) => Err(LogError::io(
                "move a torn entry to",
                &place.path(&suffix),
                source,
            )),
        };
    }
    Err(LogError::Chain {
        path: place.path.clone(),
        what: format!("{MAX_TORN} torn pieces lie beside it"),
    })
}

/// Reads a file from one offset to another, whatever the file's own position.
struct From<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let got = self.file.read_at(&mut buffer[..length], self.offset)?;
        self.offset += got as u64;
        Ok(got)
    }
}
