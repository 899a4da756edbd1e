//! What can be done to a file, as a set of bits.

use core::fmt;
use core::ops::{BitAnd, BitOr, BitOrAssign};

/// A set of things that can be done to a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct FileAccess(u32);

impl FileAccess {
    /// Nothing at all.
    pub const NONE: Self = Self(0);
    /// Read a file's content, or list a directory.
    pub const READ: Self = Self(1);
    /// Create, modify, truncate, rename into, link, change metadata.
    pub const WRITE: Self = Self(1 << 1);
    /// Unlink, remove a directory, rename away or over.
    pub const DELETE: Self = Self(1 << 2);
    /// Execute as a program.
    pub const EXECUTE: Self = Self(1 << 3);
    /// Everything there is.
    pub const ALL: Self = Self(0b1111);

    const WORDS: [(Self, &'static str); 4] = [
        (Self::READ, "read"),
        (Self::WRITE, "write"),
        (Self::DELETE, "delete"),
        (Self::EXECUTE, "execute"),
    ];

    /// The bits, as kernel maps hold them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The set with these bits; `None` when one of them means nothing.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::ALL.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }

    /// Whether all of `other` is in this set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in this set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether nothing is in this set.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together, usable in constants.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without what `other` holds.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The word of each member, in the order read, write, delete, execute.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        Self::WORDS
            .into_iter()
            .filter(move |(bit, _)| self.contains(*bit))
            .map(|(_, word)| word)
    }
}

impl BitOr for FileAccess {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for FileAccess {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl BitAnd for FileAccess {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Writes the members joined by `+`, or `nothing`.
impl fmt::Display for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing");
        }
        for (index, word) in self.words().enumerate() {
            if index > 0 {
                f.write_str("+")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

impl fmt::Debug for FileAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileAccess({self})")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::string::ToString;

    use super::*;

    #[test]
    fn members_are_named_in_a_fixed_order() {
        assert_eq!(
            (FileAccess::EXECUTE | FileAccess::READ).to_string(),
            "read+execute"
        );
        assert_eq!(FileAccess::NONE.to_string(), "nothing");
    }

    #[test]
    fn a_bit_that_means_nothing_is_refused() {
        assert_eq!(FileAccess::from_bits(1 << 4), None);
        assert_eq!(FileAccess::from_bits(0b1111), Some(FileAccess::ALL));
    }

    #[test]
    fn containing_asks_for_all_and_intersecting_for_any() {
        let both = FileAccess::READ | FileAccess::WRITE;
        assert!(both.contains(FileAccess::READ));
        assert!(!FileAccess::READ.contains(both));
        assert!(FileAccess::READ.intersects(both));
        assert_eq!(both.without(FileAccess::READ), FileAccess::WRITE);
        assert_eq!(both & FileAccess::DELETE, FileAccess::NONE);
    }
}
