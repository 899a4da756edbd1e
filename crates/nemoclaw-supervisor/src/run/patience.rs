//! How an agent is asked to end, and when it is made to. Pure: times come in as arguments.

use std::time::{Duration, Instant};

/// How long an agent has between being told for the second time and being killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// What is known of the agent's end so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Patience {
    asked: bool,
    /// When the agent is killed.
    deadline: Option<Instant>,
}

impl Patience {
    /// Someone asks the agent to end. The first time it is only told; from the second time on it has [`GRACE`].
    pub(super) fn asked(&mut self, now: Instant) {
        if self.asked {
            self.end(now);
        }
        self.asked = true;
    }

    /// The agent has to end: it has [`GRACE`] from now, or what is left of an earlier one.
    pub(super) fn end(&mut self, now: Instant) {
        self.asked = true;
        self.deadline.get_or_insert(now + GRACE);
    }

    /// When the agent is killed, if that is settled.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_only_asks_and_the_second_starts_the_grace_time() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let mut patience = Patience::default();
        patience.asked(start);
        assert_eq!(patience.deadline(), None);
        patience.asked(later);
        assert_eq!(patience.deadline(), Some(later + GRACE));
    }

    #[test]
    fn asking_again_does_not_put_the_end_off() {
        let start = Instant::now();
        let mut patience = Patience::default();
        patience.end(start);
        patience.asked(start + Duration::from_secs(4));
        assert_eq!(patience.deadline(), Some(start + GRACE));
    }
}
