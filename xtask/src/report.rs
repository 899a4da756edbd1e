//! Counts tests by what the test programs print.

use std::collections::BTreeMap;
use std::fmt;

/// How many tests passed, failed and were skipped, and why they were skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// As libtest counts: with those that skipped themselves.
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Reason by test, of those that found at run time that they cannot run here.
    pub(crate) skips: BTreeMap<String, String>,
}

impl Tally {
    /// Takes one line of a test program's output into account.
    ///
    /// libtest ends each program with `test result: ok. 3 passed; 0 failed; 1 ignored; …`; a test
    /// that cannot run here prints `SKIP <test>: <reason>` and returns, so libtest counts it as
    /// passed.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        } else if let Some(skip) = line.strip_prefix("SKIP ")
            && let Some((test, reason)) = skip.split_once(": ")
        {
            self.skips.insert(test.to_owned(), reason.trim().to_owned());
        }
    }

    /// Counts something that is no test of libtest's and could not be run.
    pub(crate) fn skip(&mut self, name: &str, reason: &str) {
        self.passed += 1;
        self.skips.insert(name.to_owned(), reason.to_owned());
    }

    /// Adds what another run found; `run` tells its skips apart.
    pub(crate) fn add(&mut self, run: &str, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skips.extend(
            other
                .skips
                .into_iter()
                .map(|(test, reason)| (format!("{test} ({run})"), reason)),
        );
    }

    /// Tests that did not run.
    pub(crate) fn skipped(&self) -> u64 {
        self.ignored + self.skips.len() as u64
    }
}

/// One line: `12 passed, 0 failed, 3 skipped`.
impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.passed.saturating_sub(self.skips.len() as u64);
        write!(
            out,
            "{passed} passed, {} failed, {} skipped",
            self.failed,
            self.skipped()
        )
    }
}

/// The number before `word` in `ok. 3 passed; 0 failed; 1 ignored`.
fn count(text: &str, word: &str) -> u64 {
    text.split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        text.lines().for_each(|line| tally.read(line));
        tally
    }

    #[test]
    fn the_results_of_several_programs_are_added_up() {
        let text = "running 3 tests\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s\n\
            test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(tally(text).to_string(), "7 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_skipped_itself_does_not_count_as_passed() {
        let text = "SKIP limits_hold: no cgroup can be made: read-only file system\n\
            test limits_hold ... ok\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        let tally = tally(text);
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(
            tally.skips.get("limits_hold").map(String::as_str),
            Some("no cgroup can be made: read-only file system")
        );
    }

    #[test]
    fn a_skip_told_twice_counts_once_and_runs_are_told_apart() {
        let run = tally(
            "SKIP a: no root\nSKIP a: no root\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
        );
        let mut both = Tally::default();
        both.add("root", run.clone());
        both.add("user", run);
        assert_eq!(both.to_string(), "0 passed, 0 failed, 2 skipped");
    }
}
