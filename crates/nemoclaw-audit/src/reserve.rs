//! Space kept for the last words: when the disk is full, what is in hand and the closing entries still go in.
//!
//! Blocks are allocated beyond the end of the log (fallocate(2), `FALLOC_FL_KEEP_SIZE`), so that appending needs none.
//! Where the filesystem refuses that, a ballast file of the same size is kept beside the log and given up, first in
//! part and for the closing entries whole, when a write finds the disk full.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, fallocate, unlinkat};
use rustix::io::{Errno, retry_on_intr};
use sha2::{Digest, Sha256};

use crate::file::Place;
use crate::log::LogError;

/// The space that is kept, in bytes.
pub(crate) const RESERVE: u64 = 256 * 1024;

/// The part of it, in bytes, that only closing entries may use.
pub(crate) const CLOSING: u64 = 64 * 1024;

/// The suffix of the ballast file.
const BALLAST: &str = "reserve";

/// Who asks for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Any entry.
    Ordinary,
    /// The last words of a run.
    Closing,
}

/// What there is to write into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// The disk has space beyond the reserve, as far as can be told.
    Ample,
    /// The disk is full; the reserve holds what is to be written.
    Reserve,
    /// The reserve does not hold it.
    None,
}

/// How the space is kept.
#[derive(Debug)]
pub(crate) enum Reserve {
    /// Blocks beyond the end of the log, up to this offset.
    Allocated {
        /// The first byte after the blocks; 0 where it is not known.
        until: u64,
    },
    /// A file beside the log.
    Ballast {
        /// Whether it is known to stand there whole.
        whole: bool,
    },
}

impl Reserve {
    pub(crate) fn new() -> Self {
        Self::Allocated { until: 0 }
    }

    /// Forgets what is known: somebody else wrote, or the log was cut.
    pub(crate) fn forget(&mut self) {
        match self {
            Self::Allocated { until } => *until = 0,
            Self::Ballast { whole } => *whole = false,
        }
    }

    /// Makes room for `length` bytes at `end` and for the reserve after them.
    pub(crate) fn prepare(
        &mut self,
        place: &Place,
        file: &File,
        end: u64,
        length: u64,
        purpose: Use,
    ) -> io::Result<Room> {
        match self {
            Self::Allocated { until } => match extend(file, until, end, length)? {
                Extended::Ample => Ok(Room::Ample),
                Extended::Full => {
                    let kept = if purpose == Use::Ordinary { CLOSING } else { 0 };
                    Ok(if end + length + kept <= *until {
                        Room::Reserve
                    } else {
                        Room::None
                    })
                }
                Extended::Refused => {
                    *self = Self::Ballast { whole: false };
                    self.prepare(place, file, end, length, purpose)
                }
            },
            Self::Ballast { whole } => {
                if !*whole {
                    *whole = match lay_ballast(place) {
                        Ok(()) => true,
                        Err(error) if is_full(&error) => false,
                        Err(error) => return Err(error),
                    };
                }
                Ok(if *whole { Room::Ample } else { Room::Reserve })
            }
        }
    }

    /// Gives space back to the disk after a write found it full; says whether there was any to give.
    pub(crate) fn release(&mut self, place: &Place, purpose: Use) -> bool {
        let Self::Ballast { whole } = self else {
            return false;
        };
        *whole = false;
        let Ok(ballast) = place.open(BALLAST, OFlags::WRONLY) else {
            return false;
        };
        let size = ballast.metadata().map_or(0, |metadata| metadata.len());
        match purpose {
            Use::Ordinary => size > CLOSING && ballast.set_len(CLOSING).is_ok(),
            Use::Closing => {
                size > 0
                    && unlinkat(&place.directory, place.name(BALLAST), AtFlags::empty()).is_ok()
            }
        }
    }
}

enum Extended {
    Ample,
    Full,
    Refused,
}

/// Extends the blocks to `end + length + RESERVE`; on a full disk finds out how far they reach.
fn extend(file: &File, until: &mut u64, end: u64, length: u64) -> io::Result<Extended> {
    if *until >= end + length + RESERVE {
        return Ok(Extended::Ample);
    }
    // Twice the reserve at a time, so that most batches need no call.
    for ample in [length + 2 * RESERVE, length + RESERVE] {
        match allocate(file, end, ample) {
            Ok(()) => {
                *until = end + ample;
                return Ok(Extended::Ample);
            }
            Err(Errno::NOSPC | Errno::DQUOT) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                return Ok(Extended::Refused);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    // Blocks that are there already need no space: what succeeds is what there is.
    let mut step = RESERVE;
    while step >= 4096 {
        let from = (*until).max(end);
        match allocate(file, from, step) {
            Ok(()) => *until = from + step,
            Err(Errno::NOSPC | Errno::DQUOT) => step /= 2,
            Err(errno) => return Err(errno.into()),
        }
        if *until >= end + length + RESERVE {
            return Ok(Extended::Ample);
        }
    }
    Ok(Extended::Full)
}

/// Allocates blocks. A signal may interrupt it on some filesystems (tmpfs), and it is not restarted by the kernel.
fn allocate(file: &File, from: u64, length: u64) -> rustix::io::Result<()> {
    retry_on_intr(|| fallocate(file, FallocateFlags::KEEP_SIZE, from, length))
}

/// Writes the ballast file, unless it stands there: bytes that no filesystem can compress.
fn lay_ballast(place: &Place) -> io::Result<()> {
    let mut ballast = place
        .open(BALLAST, OFlags::WRONLY | OFlags::CREATE)
        .map_err(LogError::into_io)?;
    if ballast.metadata()?.len() >= RESERVE {
        return Ok(());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(RESERVE).unwrap_or_default());
    let mut block = Sha256::digest(b"ballast");
    while (bytes.len() as u64) < RESERVE {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    ballast.write_all(&bytes).and_then(|()| ballast.sync_all())
}

/// Whether an error says that the disk, or the quota, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
