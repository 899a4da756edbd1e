//! Appending to a log: locked, chained, durable, whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, OFlags};

use crate::encode;
use crate::entry::Entry;
use crate::file::{self, LOCK_PATIENCE, Place};
use crate::head::{Head, HeadError};
use crate::recover;
use crate::reserve::{Reserve, Room, Use, is_full};

/// A log that is open for appending. Several may be open on one file, in one process or in many.
#[derive(Debug)]
pub struct Log {
    place: Place,
    file: File,
    durability: Durability,
    /// The last entry as far as this process knows; compared with the file under the lock.
    head: Head,
    reserve: Reserve,
    /// Set when the state of the file can no longer be known: nothing more is acknowledged.
    failed: bool,
}

/// When entries are made to survive a loss of power.
///
/// Either way they survive the death of this process, `SIGKILL` included, from the moment they are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Every batch before it is acknowledged (fdatasync(2)), then the head.
    #[default]
    EveryBatch,
    /// When the log is closed. A loss of power before that may lose entries and leave a head that names them.
    AtClose,
}

/// How a batch was written.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// As it should be.
    Written,
    /// Safely, but the disk is full and the reserve is in use: stop the agent and close.
    ReserveInUse,
}

/// Why a log cannot be opened or appended to.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The path ends in no file name.
    #[error("the audit log `{}` names no file", path.display())]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
    /// A file of the log is a symbolic link.
    #[error("`{}` is a symbolic link; name the file itself", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// A file of the log is a directory, FIFO, device or socket.
    #[error("`{}` is not a regular file; choose another path for the audit log", path.display())]
    NotRegular {
        /// What it is not.
        path: PathBuf,
    },
    /// A file of the log has a second hard link, through which it could be changed.
    #[error("`{}` has a second hard link; remove it, or choose another path for the audit log", path.display())]
    SecondName {
        /// One of its names.
        path: PathBuf,
    },
    /// A file of the log, or its directory, belongs to somebody else, who could replace it.
    #[error(
        "`{}` belongs to user {owner}, and this is user {user}; give it to user {user}, or choose another path for the audit log",
        path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// A file of the log, or its directory, may be written by others.
    #[error("`{}` may be written by others (mode {mode:04o}); run `chmod go-w` on it", path.display())]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The operating system refused.
    #[error("could not {operation} `{}`", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the log.
    #[error("the audit log `{}` was locked by another process for {seconds} seconds; end that process", path.display())]
    Busy {
        /// The log.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The log was moved or removed while it was open.
    #[error("the audit log `{}` was moved or removed while it was in use; put it back", path.display())]
    Replaced {
        /// Where it was.
        path: PathBuf,
    },
    /// The head file cannot be used.
    #[error(
        "the head file `{}` cannot be used; run `audit verify`, then restore it, or move the log and its head away to start a new one",
        path.display()
    )]
    Head {
        /// The head file.
        path: PathBuf,
        /// Why.
        source: HeadError,
    },
    /// The log is not the one that the head file describes.
    #[error(
        "the audit log `{}` does not fit its head file: {what}; run `audit verify`, then restore the log, or move it and its head away to start a new one",
        path.display()
    )]
    Chain {
        /// The log.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The disk is full and so is the reserve. The batch was not written.
    #[error("the disk is full: {entries} entries were not written to the audit log `{}`; free some space", path.display())]
    Full {
        /// The log.
        path: PathBuf,
        /// How many entries were not written.
        entries: usize,
    },
    /// An entry cannot be written as a line.
    #[error("an entry cannot be written to the audit log `{}`", path.display())]
    Entry {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An earlier write failed in a way that leaves the file's state unknown.
    #[error("the audit log `{}` failed earlier and takes no more entries; open it again", path.display())]
    Failed {
        /// The log.
        path: PathBuf,
    },
}

impl LogError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The system's error, where there is one.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other),
        }
    }

    fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

impl Log {
    /// Opens a log, or makes it: the file and its head with mode 0600, missing directories with 0700.
    ///
    /// What a crash left is put right, and a `recover` entry says how: whole entries after the head are adopted, the
    /// piece of an entry that a write was cut in is moved to `<log>.torn-<n>`.
    ///
    /// # Errors
    ///
    /// The path is a symbolic link, not a regular file, somebody else's or writable by others; the log does not fit
    /// its head; the system refuses; another process holds the lock for a minute.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, LogError> {
        let place = Place::create(path)?;
        let file = place.open("", OFlags::RDWR | OFlags::APPEND | OFlags::CREATE)?;
        let mut log = Self {
            place,
            file,
            durability,
            head: Head::empty(),
            reserve: Reserve::new(),
            failed: false,
        };
        log.exclusively(Self::reload)?;
        Ok(log)
    }

    /// Appends a batch: all of it, in order, with no other process's entry between, or nothing.
    ///
    /// When this returns `Ok`, the batch is as durable as [`Durability`] says.
    ///
    /// # Errors
    ///
    /// Nothing of the batch was written, except after an error of fdatasync(2) or of the head file, when it is
    /// unknown and the log takes no more entries until it is opened again.
    pub fn append(&mut self, entries: &[Entry]) -> Result<Appended, LogError> {
        self.append_for(entries, Use::Ordinary)
    }

    /// Appends the last entries of a run, which may use the part of the reserve that is kept for them.
    ///
    /// # Errors
    ///
    /// As [`Log::append`].
    pub fn append_closing(&mut self, entries: &[Entry]) -> Result<Appended, LogError> {
        self.append_for(entries, Use::Closing)
    }

    /// The last entry that this process knows of.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Where the log lies.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Makes everything durable now, whatever [`Durability`] says.
    ///
    /// # Errors
    ///
    /// The system refuses; the log then takes no more entries.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.refuse_after_failure()?;
        self.exclusively(|log| {
            log.refresh()?;
            log.sync_data()?;
            log.head.replace(&log.place, true)
        })
    }

    fn append_for(&mut self, entries: &[Entry], purpose: Use) -> Result<Appended, LogError> {
        self.refuse_after_failure()?;
        if entries.is_empty() {
            return Ok(Appended::Written);
        }
        self.exclusively(|log| {
            log.refresh()?;
            log.commit(entries, purpose)
        })
    }

    fn refuse_after_failure(&self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed {
                path: self.place.path.clone(),
            });
        }
        Ok(())
    }

    /// Does something under the exclusive lock.
    fn exclusively<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let got = file::lock(&self.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|source| LogError::io("lock", &self.place.path, source))?;
        if !got {
            return Err(LogError::Busy {
                path: self.place.path.clone(),
                seconds: LOCK_PATIENCE.as_secs(),
            });
        }
        let result = act(self);
        if let Err(errno) = rustix::fs::flock(&self.file, FlockOperation::Unlock) {
            self.failed = true;
            return result.and(Err(LogError::io("unlock", &self.place.path, errno)));
        }
        result
    }

    /// Looks whether another process appended; cheap when none did.
    fn refresh(&mut self) -> Result<(), LogError> {
        let path = &self.place.path;
        let in_place = self
            .place
            .names(&self.file)
            .map_err(|source| LogError::io("look at", path, source))?;
        if !in_place {
            return Err(LogError::Replaced { path: path.clone() });
        }
        if self.size()? == self.head.bytes {
            return Ok(());
        }
        self.reload()
    }

    /// Reads the head file, puts right what a crash left, and records that.
    fn reload(&mut self) -> Result<(), LogError> {
        self.reserve.forget();
        let loaded = recover::load(&self.place, &self.file, self.durability)?;
        self.head = loaded.head;
        match loaded.recovered {
            // The entry is among the last words: without it the recovery would be silent.
            Some(entry) => self.commit(&[entry], Use::Closing).map(|_| ()),
            None => Ok(()),
        }
    }

    fn size(&self) -> Result<u64, LogError> {
        match self.file.metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(source) => Err(LogError::io("look at", &self.place.path, source)),
        }
    }

    /// Writes a batch after the head, makes it durable and moves the head.
    fn commit(&mut self, entries: &[Entry], purpose: Use) -> Result<Appended, LogError> {
        let (bytes, head) = self.chain(entries)?;
        let mut full = self.write(&bytes, entries.len(), purpose)?;
        if self.durability == Durability::EveryBatch {
            self.sync_data()?;
        }
        // From here on the batch is in the log, whatever becomes of the head.
        self.head = head;
        let durable = self.durability == Durability::EveryBatch;
        let mut replaced = self.head.replace(&self.place, durable);
        if matches!(&replaced, Err(error) if error.is_full()) {
            full = true;
            if self.reserve.release(&self.place, purpose) {
                replaced = self.head.replace(&self.place, durable);
            }
        }
        match replaced {
            // The entries stand; the next writer adopts them, or the next batch moves the head.
            Err(error) if error.is_full() => Ok(Appended::ReserveInUse),
            Err(error) => {
                self.failed = true;
                Err(error)
            }
            Ok(()) if full => Ok(Appended::ReserveInUse),
            Ok(()) => Ok(Appended::Written),
        }
    }

    /// Numbers, dates and chains a batch.
    fn chain(&self, entries: &[Entry]) -> Result<(Vec<u8>, Head), LogError> {
        let mut bytes = Vec::new();
        let mut head = self.head.clone();
        for entry in entries {
            let sequence = head.sequence.saturating_add(1);
            let timestamp = format!("{:.6}", Timestamp::now());
            let line =
                encode::line(sequence, &timestamp, &head.digest, entry).map_err(|source| {
                    LogError::Entry {
                        path: self.place.path.clone(),
                        source: source.into(),
                    }
                })?;
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
            head = Head {
                sequence,
                digest: encode::digest(line.as_bytes()),
                bytes: self.head.bytes + bytes.len() as u64,
            };
        }
        Ok((bytes, head))
    }

    /// Writes the bytes whole or not at all; says whether the disk was full.
    fn write(&mut self, bytes: &[u8], entries: usize, purpose: Use) -> Result<bool, LogError> {
        let full = || LogError::Full {
            path: self.place.path.clone(),
            entries,
        };
        let end = self.head.bytes;
        let room = self
            .reserve
            .prepare(&self.place, &self.file, end, bytes.len() as u64, purpose)
            .map_err(|source| LogError::io("keep space for", &self.place.path, source))?;
        if room == Room::None {
            return Err(full());
        }
        match (&self.file).write_all(bytes) {
            Ok(()) => return Ok(room == Room::Reserve),
            Err(error) if is_full(&error) => {}
            Err(source) => {
                self.cut_back(end)?;
                return Err(LogError::io("write to", &self.place.path, source));
            }
        }
        let full = full();
        self.cut_back(end)?;
        if !self.reserve.release(&self.place, purpose) {
            return Err(full);
        }
        match (&self.file).write_all(bytes) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.cut_back(end)?;
                Err(if is_full(&error) {
                    full
                } else {
                    LogError::io("write to", &self.place.path, error)
                })
            }
        }
    }

    /// Removes the part of a batch that was written.
    fn cut_back(&mut self, end: u64) -> Result<(), LogError> {
        self.reserve.forget();
        self.file.set_len(end).map_err(|source| {
            self.failed = true;
            LogError::io("cut back", &self.place.path, source)
        })
    }

    fn sync_data(&mut self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|source| {
            // What the disk holds is unknown now, and a second call could succeed without it (fsync(2), NOTES).
            self.failed = true;
            LogError::io("sync", &self.place.path, source)
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.durability == Durability::AtClose && !self.failed {
            // A caller that must know calls `sync` first.
            let _ = self.sync();
        }
    }
}

#[cfg(test)]
mod full_disk;
