//! The nearest known word to one that is not known.

/// Words longer than this are not compared: nobody meant a known one.
const MAX_WORD: usize = 64;

/// The known word that a person who wrote `word` most likely meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > MAX_WORD {
        return None;
    }
    let word = normal(word);
    if word.is_empty() {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (distance(&word, &normal(candidate)), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1 + candidate.chars().count().min(word.len()) / 4
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Case, hyphens and underscores do not make a word another one.
fn normal(word: &str) -> Vec<char> {
    word.chars()
        .flat_map(char::to_lowercase)
        .map(|c| if c == '-' { '_' } else { c })
        .collect()
}

/// How many insertions, deletions, replacements and swaps of neighbours part two words.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut older: Vec<usize> = vec![0; right.len() + 1];
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    let mut current = previous.clone();
    for (row, a) in left.iter().enumerate() {
        current[0] = row + 1;
        for (column, b) in right.iter().enumerate() {
            let replaced = previous[column] + usize::from(a != b);
            let mut best = replaced
                .min(previous[column + 1] + 1)
                .min(current[column] + 1);
            if row > 0 && column > 0 && *a == right[column - 1] && left[row - 1] == *b {
                best = best.min(older[column - 1] + 1);
            }
            current[column + 1] = best;
        }
        std::mem::swap(&mut older, &mut previous);
        std::mem::swap(&mut previous, &mut current);
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_hand_finds_the_word_that_was_meant() {
        let known = [
            "allowed_actions",
            "denied_actions",
            "read_files",
            "write_files",
            "name",
        ];
        assert_eq!(nearest("alowed_actions", known), Some("allowed_actions"));
        assert_eq!(nearest("Denied-Actions", known), Some("denied_actions"));
        assert_eq!(nearest("raed_files", known), Some("read_files"));
        assert_eq!(nearest("nmae", known), Some("name"));
    }

    #[test]
    fn a_word_like_none_gets_no_hint() {
        assert_eq!(nearest("xylophone", ["name", "version"]), None);
        assert_eq!(nearest("", ["name"]), None);
        assert_eq!(nearest(&"n".repeat(100_000), ["name"]), None);
    }
}
