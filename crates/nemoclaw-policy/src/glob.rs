//! Matching and comparing sequences of path components with wildcards.
//!
//! Every function here is iterative, and takes at most the product of both lengths in steps.

/// One component of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Component {
    /// A name, taken as it is.
    Literal(String),
    /// A name in which `*` stands for any run of characters.
    Glob(String),
    /// Any number of names, also none.
    AnyDepth,
}

impl Component {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == name,
            Self::Glob(glob) => wildcard(glob.as_bytes(), name.as_bytes()),
            Self::AnyDepth => false,
        }
    }

    pub(crate) fn literal_chars(&self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::Glob(text) => text.bytes().filter(|byte| *byte != b'*').count(),
            Self::AnyDepth => 0,
        }
    }

    /// Whether every name that `other` matches is matched by this; neither is `AnyDepth`.
    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(left), Self::Literal(right)) => left == right,
            (Self::Glob(left), Self::Literal(right)) => wildcard(left.as_bytes(), right.as_bytes()),
            // `*` in the narrower one is matched only by `*` in the wider one, never by a letter.
            (Self::Glob(left), Self::Glob(right)) => wildcard(left.as_bytes(), right.as_bytes()),
            _ => false,
        }
    }

    /// Whether some name is matched by both; neither is `AnyDepth`.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(left), Self::Literal(right)) => left == right,
            (Self::Glob(glob), Self::Literal(name)) | (Self::Literal(name), Self::Glob(glob)) => {
                wildcard(glob.as_bytes(), name.as_bytes())
            }
            (Self::Glob(left), Self::Glob(right)) => {
                let (left, right) = (left.as_bytes(), right.as_bytes());
                let star = |byte: &u8| *byte == b'*';
                meet(left, right, star, star, |a, b| a == b)
            }
            _ => false,
        }
    }

    fn is_any_depth(&self) -> bool {
        *self == Self::AnyDepth
    }
}

/// The components as one text, beginning with `/`.
pub(crate) fn text(parts: &[Component]) -> String {
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        text.push('/');
        match part {
            Component::Literal(name) | Component::Glob(name) => text.push_str(name),
            Component::AnyDepth if index + 1 == parts.len() => text.push('*'),
            Component::AnyDepth => text.push_str("**"),
        }
    }
    if text.is_empty() {
        text.push('/');
    }
    text
}

/// Whether the pattern matches the whole path.
pub(crate) fn matches(pattern: &[Component], path: &[&str]) -> bool {
    walk(pattern, path, false)
}

/// Whether the pattern matches the path or one of the directories that hold it.
pub(crate) fn covers(pattern: &[Component], path: &[&str]) -> bool {
    walk(pattern, path, true)
}

/// Going back to the last `**` is enough: an earlier one could only give up names that a later
/// one takes as well.
fn walk(pattern: &[Component], path: &[&str], prefix: bool) -> bool {
    let (mut at, mut depth) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (pattern.get(at), path.get(depth)) {
            (None, None) => return true,
            (None, Some(_)) if prefix => return true,
            (Some(Component::AnyDepth), _) => {
                back = Some((at + 1, depth));
                at += 1;
                continue;
            }
            (Some(part), Some(name)) if part.matches(name) => {
                at += 1;
                depth += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((after, from)) if from < path.len() => {
                back = Some((after, from + 1));
                at = after;
                depth = from + 1;
            }
            _ => return false,
        }
    }
}

/// Whether `*` and letters match the text.
fn wildcard(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (glob.get(at), text.get(position)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                back = Some((at + 1, position));
                at += 1;
                continue;
            }
            (Some(wanted), Some(found)) if wanted == found => {
                at += 1;
                position += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((after, from)) if from < text.len() => {
                back = Some((after, from + 1));
                at = after;
                position = from + 1;
            }
            _ => return false,
        }
    }
}

/// Whether every path that `narrow` matches is matched by `wide`. `true` is always right; `false`
/// may be wrong for patterns with several wildcards.
pub(crate) fn includes(wide: &[Component], narrow: &[Component]) -> bool {
    let (mut at, mut depth) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        match (wide.get(at), narrow.get(depth)) {
            (None, None) => return true,
            (Some(Component::AnyDepth), _) => {
                back = Some((at + 1, depth));
                at += 1;
                continue;
            }
            (Some(part), Some(other)) if part.includes(other) => {
                at += 1;
                depth += 1;
                continue;
            }
            _ => {}
        }
        match back {
            Some((after, from)) if from < narrow.len() => {
                back = Some((after, from + 1));
                at = after;
                depth = from + 1;
            }
            _ => return false,
        }
    }
}

/// Whether some path is matched by both patterns.
pub(crate) fn overlaps(left: &[Component], right: &[Component]) -> bool {
    meet(
        left,
        right,
        Component::is_any_depth,
        Component::is_any_depth,
        Component::meets,
    )
}

/// Whether two sequences with wildcards have something in common: reachability over the pairs of
/// positions, one row at a time.
fn meet<T>(
    left: &[T],
    right: &[T],
    left_wild: impl Fn(&T) -> bool,
    right_wild: impl Fn(&T) -> bool,
    same: impl Fn(&T, &T) -> bool,
) -> bool {
    let width = right.len() + 1;
    let mut row = vec![false; width];
    row[0] = true;
    for step in 0..=left.len() {
        let here = left.get(step);
        let mut next = vec![false; width];
        for column in 0..width {
            if !row[column] {
                continue;
            }
            let there = right.get(column);
            let here_wild = here.is_some_and(&left_wild);
            let there_wild = there.is_some_and(&right_wild);
            if here_wild {
                next[column] = true;
            }
            if there_wild || (here_wild && there.is_some()) {
                row[column + 1] = true;
            }
            if let (Some(a), Some(b)) = (here, there) {
                if there_wild {
                    next[column] = true;
                } else if !here_wild && same(a, b) {
                    next[column + 1] = true;
                }
            }
        }
        if here.is_none() {
            return row[width - 1];
        }
        row = next;
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str) -> Vec<Component> {
        text.split('/')
            .filter(|part| !part.is_empty())
            .map(|part| match part {
                "**" => Component::AnyDepth,
                _ if part.contains('*') => Component::Glob(part.to_owned()),
                _ => Component::Literal(part.to_owned()),
            })
            .collect()
    }

    /// The definition, by recursion.
    fn naive(pattern: &[Component], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((Component::AnyDepth, rest)), first) => {
                naive(rest, path) || first.is_some_and(|(_, tail)| naive(pattern, tail))
            }
            (Some((part, rest)), Some((name, tail))) => naive_part(part, name) && naive(rest, tail),
            _ => false,
        }
    }

    fn naive_part(part: &Component, name: &str) -> bool {
        fn go(glob: &[u8], text: &[u8]) -> bool {
            match (glob.split_first(), text.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), first) => {
                    go(rest, text) || first.is_some_and(|(_, tail)| go(glob, tail))
                }
                (Some((a, rest)), Some((b, tail))) => a == b && go(rest, tail),
                _ => false,
            }
        }
        match part {
            Component::Literal(literal) => literal == name,
            Component::Glob(glob) => go(glob.as_bytes(), name.as_bytes()),
            Component::AnyDepth => false,
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof![
                Just("**"),
                Just("*"),
                Just("a"),
                Just("ab"),
                Just("a*"),
                Just("*b"),
                Just("b")
            ],
            0..5,
        )
        .prop_map(|parts| parts.join("/"))
    }

    fn path() -> impl Strategy<Value = Vec<&'static str>> {
        proptest::collection::vec(
            prop_oneof![Just("a"), Just("b"), Just("ab"), Just("aab")],
            0..5,
        )
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(pattern in pattern(), path in path()) {
            let parts = parts(&pattern);
            prop_assert_eq!(matches(&parts, &path), naive(&parts, &path));
            let any = (0..=path.len()).any(|end| naive(&parts, &path[..end]));
            prop_assert_eq!(covers(&parts, &path), any);
        }

        #[test]
        fn an_included_pattern_matches_nothing_more(wide in pattern(), narrow in pattern(), path in path()) {
            let (wide, narrow) = (parts(&wide), parts(&narrow));
            if includes(&wide, &narrow) && naive(&narrow, &path) {
                prop_assert!(naive(&wide, &path));
            }
        }

        #[test]
        fn patterns_that_share_a_path_overlap(left in pattern(), right in pattern(), path in path()) {
            let (left, right) = (parts(&left), parts(&right));
            if naive(&left, &path) && naive(&right, &path) {
                prop_assert!(overlaps(&left, &right));
                prop_assert!(overlaps(&right, &left));
            }
        }
    }

    #[test]
    fn patterns_that_share_no_path_do_not_overlap() {
        assert!(!overlaps(&parts("/a/**"), &parts("/b/**")));
        assert!(!overlaps(&parts("/a/*.x"), &parts("/a/*.y")));
        assert!(!overlaps(&parts("/a"), &parts("/a/b")));
        assert!(overlaps(&parts("/a/**/c"), &parts("/a/b/*")));
        assert!(!includes(&parts("/a/*.x"), &parts("/a/*")));
    }

    #[test]
    fn many_wildcards_do_not_take_forever() {
        let stars = Component::Glob("*a".repeat(120));
        let name = "a".repeat(250);
        assert!(stars.matches(&name));
        assert!(!stars.matches(&format!("{name}b")));
        let deep = parts(&"/**/a".repeat(500));
        let path: Vec<&str> = std::iter::repeat_n("b", 2_000).collect();
        assert!(!matches(&deep, &path));
    }
}
