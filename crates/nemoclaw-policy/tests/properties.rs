//! Promises that hold for every policy and every action, tried on random ones.

use nemoclaw_policy::{
    Action, Bindings, BoundPolicy, Edit, FileAccess, PATH_DIRECTORIES, PathPattern, Policy, RuleId,
    Verdict,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const BINDINGS: Bindings<'static> = Bindings {
    home: "/home/ada",
    workdir: "/work/project",
};

/// One entry of one list, a line of its own in the text.
#[derive(Debug, Clone)]
struct Entry {
    list: &'static str,
    action: &'static str,
    text: String,
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        // A case that failed becomes a test with a name.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

const LISTS: [(&str, Verdict); 3] = [
    ("allowed_actions", Verdict::Allow),
    ("approval_required", Verdict::Ask),
    ("denied_actions", Verdict::Deny),
];

/// The policy of these entries. They stand sorted by their lists, as their numbers do.
fn text_of(entries: &[Entry], added: &[String]) -> String {
    let mut text = "name: x\n".to_owned();
    for (list, _) in LISTS {
        let mut lines: Vec<String> = entries
            .iter()
            .filter(|entry| entry.list == list)
            .map(|entry| format!("- {}: [\"{}\"]", entry.action, entry.text))
            .collect();
        if list == "allowed_actions" {
            lines.extend_from_slice(added);
        }
        if !lines.is_empty() {
            text += &format!("{list}:\n  {}\n", lines.join("\n  "));
        }
    }
    text
}

/// `None` for entries that are refused, as an over-broad allowance is.
fn bound(text: &str) -> Option<BoundPolicy> {
    Policy::parse(text).ok()?.bind(&BINDINGS).ok()
}

/// Whether anything may be executed, now or after approval: then the system's libraries may be read.
fn executes(entries: &[Entry]) -> bool {
    entries
        .iter()
        .any(|entry| entry.action == "execute_code" && entry.list != "denied_actions")
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let parts = select(vec!["a", "b", "ab", ".env", "*", "**", "a*", "*b"]);
    let heads = select(vec!["", "/", "~/", "${workdir}/", "/home/*/", "/work/"]);
    let path = (heads, prop::collection::vec(parts, 1..4)).prop_map(|(head, parts)| match head {
        "" => parts[0].to_owned(),
        _ => format!("{head}{}", parts.join("/")),
    });
    let files = select(vec!["read_files", "write_files", "delete_files"]);
    let program = prop_oneof![
        path.clone(),
        select(vec!["a", "b", "/usr/bin/*", "/usr/bin/a"]).prop_map(str::to_owned)
    ];
    let host = (
        select(vec![
            "a.example",
            "*.example",
            "*.a.example",
            "*",
            "10.0.0.0/8",
            "10.1.0.0/16",
            "192.0.2.1",
        ]),
        select(vec!["", ":443", ":8443"]),
    );
    let what = prop_oneof![
        4 => (files, path),
        1 => (Just("execute_code"), program),
        2 => (select(vec!["network_access", "external_network"]), host.prop_map(|(host, port)| format!("{host}{port}"))),
    ];
    let list = select(LISTS.map(|(list, _)| list).to_vec());
    let entry = (list, what).prop_map(|(list, (action, text))| Entry { list, action, text });
    prop::collection::vec(entry, 0..8).prop_map(|mut entries| {
        entries.sort_by_key(|entry| LISTS.iter().position(|(list, _)| *list == entry.list));
        entries
    })
}

fn action() -> impl Strategy<Value = Action> {
    let parts = select(vec!["a", "b", "ab", "aab", ".env", "c"]);
    let heads = select(vec![
        "",
        "/home/ada",
        "/home/adam",
        "/work/project",
        "/work",
        "/usr/bin",
        "/tmp",
        "/proc/sys",
    ]);
    let path = (heads, prop::collection::vec(parts, 0..4)).prop_map(|(head, parts)| {
        let path = parts
            .into_iter()
            .fold(head.to_owned(), |path, part| format!("{path}/{part}"));
        if path.is_empty() {
            "/".to_owned()
        } else {
            path
        }
    });
    let words = select(vec!["read", "write", "delete", "execute"]);
    let hosts = select(vec![
        "a.example",
        "b.a.example",
        "x.example",
        "example",
        "A.Example.",
        "10.1.2.3",
        "10.2.3.4",
        "192.0.2.1",
        "93.184.216.34",
        "localhost",
        "127.0.0.1",
    ]);
    let ports = select(vec![443, 80, 8443]);
    prop_oneof![
        4 => (words, path).prop_map(|(word, path)| format!("{word}:{path}")),
        1 => (hosts, ports).prop_map(|(host, port)| format!("connect:{host}:{port}")),
    ]
    .prop_filter_map("an action", |text| text.parse().ok())
}

/// The language's definition, slowly, from the text of the entries alone.
mod reference {
    use super::*;

    /// The components of a pattern; `**` is any number of them.
    fn components(text: &str) -> Vec<String> {
        let whole = match (text.strip_prefix("~/"), text.strip_prefix("${workdir}/")) {
            (Some(rest), _) => format!("{}/{rest}", BINDINGS.home),
            (_, Some(rest)) => format!("{}/{rest}", BINDINGS.workdir),
            _ if text.starts_with('/') => text.to_owned(),
            _ => return vec!["**".to_owned(), text.to_owned()],
        };
        let mut parts: Vec<String> = whole.split('/').skip(1).map(str::to_owned).collect();
        if let Some(last) = parts.last_mut().filter(|last| *last == "*") {
            *last = "**".to_owned();
        }
        parts
    }

    fn matches(pattern: &[String], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((part, rest)), first) if part == "**" => {
                matches(rest, path) || first.is_some_and(|(_, tail)| matches(pattern, tail))
            }
            (Some((part, rest)), Some((name, tail))) => {
                name_matches(part.as_bytes(), name.as_bytes()) && matches(rest, tail)
            }
            _ => false,
        }
    }

    fn name_matches(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), first) => {
                name_matches(rest, name) || first.is_some_and(|(_, tail)| name_matches(glob, tail))
            }
            (Some((a, rest)), Some((b, tail))) => a == b && name_matches(rest, tail),
            _ => false,
        }
    }

    fn speaks_of_path(entry: &Entry, word: &str, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let wanted = match word {
            "read" => "read_files",
            "write" => "write_files",
            "delete" => "delete_files",
            _ => "execute_code",
        };
        if entry.action != wanted {
            return false;
        }
        let allowance = entry.list == "allowed_actions";
        let name = !entry.text.contains('/');
        if word == "execute" && name {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            return parts.last() == Some(&entry.text.as_str())
                && (!allowance || PATH_DIRECTORIES.contains(&parent));
        }
        let mut pattern = components(&entry.text);
        if !allowance {
            return (0..=parts.len()).any(|end| matches(&pattern, &parts[..end]));
        }
        if word != "read" && pattern.last().is_some_and(|last| last == "**") {
            // What is beneath, without the directory itself.
            pattern.push("*".to_owned());
        }
        matches(&pattern, &parts)
    }

    fn speaks_of_host(entry: &Entry, host: &str, port: u16) -> bool {
        let (pattern, wanted) = match entry.text.split_once(':') {
            Some((pattern, port)) => (pattern, port.parse::<u16>().ok()),
            None => (entry.text.as_str(), None),
        };
        let denial = entry.list == "denied_actions";
        let port = match wanted {
            Some(wanted) => wanted == port,
            None => denial || [443, 80].contains(&port),
        };
        let host = host.to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let address = host.split('.').all(|part| part.parse::<u8>().is_ok());
        let public = ![
            "localhost",
            "127.0.0.1",
            "10.1.2.3",
            "10.2.3.4",
            "192.0.2.1",
        ]
        .contains(&host);
        port && match pattern {
            "*" => denial || public,
            "10.0.0.0/8" => address && host.starts_with("10."),
            "10.1.0.0/16" => address && host.starts_with("10.1."),
            _ => match pattern.strip_prefix('*') {
                Some(parent) => !address && host.ends_with(parent),
                None => host == pattern,
            },
        }
    }

    /// The numbers of the entries that speak of the action, each with its verdict.
    pub(super) fn speaking(entries: &[Entry], action: &Action) -> Vec<(RuleId, Verdict)> {
        let text = action.to_string();
        let (word, rest) = text.split_once(':').unwrap_or_default();
        let with = |speaks: &dyn Fn(&Entry) -> bool| {
            let mut found = Vec::new();
            for (index, entry) in (1..).zip(entries) {
                let verdict = LISTS.iter().find(|(list, _)| *list == entry.list);
                if let (Some((_, verdict)), true) = (verdict, speaks(entry)) {
                    found.push((RuleId(index), *verdict));
                }
            }
            found
        };
        let Action::Connect { host, port } = action else {
            return with(&|entry| speaks_of_path(entry, word, rest));
        };
        let named =
            with(&|entry| entry.action == "network_access" && speaks_of_host(entry, host, *port));
        if !named.is_empty() {
            return named;
        }
        with(&|entry| entry.action == "external_network" && speaks_of_host(entry, host, *port))
    }
}

proptest! {
    #![proptest_config(cases(2_000))]

    #[test]
    fn evaluation_agrees_with_the_languages_definition(entries in entries(), action in action()) {
        let Some(policy) = bound(&text_of(&entries, &[])) else { return Ok(()) };
        let decision = policy.evaluate(&action);
        prop_assert_eq!(policy.verdict(&action), (decision.verdict, decision.rule.as_ref().map_or(RuleId::NONE, |rule| rule.id)));

        let strongest = decision.rule.iter().chain(&decision.runners_up);
        let told: Vec<(RuleId, Verdict)> = strongest.map(|rule| (rule.id, rule.verdict)).collect();
        prop_assert!(told.is_sorted_by(|left, right| left.1 >= right.1), "{:?}", told);
        prop_assert_eq!(decision.verdict, told.first().map_or(Verdict::Deny, |(_, verdict)| *verdict));

        let mut written: Vec<(RuleId, Verdict)> = told.into_iter().filter(|(id, _)| !id.is_built_in()).collect();
        written.sort();
        prop_assert_eq!(written, reference::speaking(&entries, &action));
    }

    #[test]
    fn compiled_rules_agree_with_evaluation(entries in entries(), action in action()) {
        let Some(policy) = bound(&text_of(&entries, &[])) else { return Ok(()) };
        let Some((access, path)) = action.file().filter(|(access, _)| *access != FileAccess::EXECUTE) else {
            return Ok(());
        };
        let compiled = policy.compile();
        let grants = |pattern: &PathPattern| {
            if access != FileAccess::READ && pattern.text.ends_with("/*") {
                return path.parent().is_some_and(|parent| pattern.matches(parent.as_str()));
            }
            pattern.matches(path.as_str())
        };
        let withholds = |pattern: &PathPattern| pattern.covers(path.as_str());
        let any = |rules: &[nemoclaw_policy::PathRule], speaks: &dyn Fn(&PathPattern) -> bool| {
            rules.iter().any(|rule| rule.access.intersects(access) && speaks(&rule.pattern))
        };
        let verdict = if any(&compiled.denials, &withholds) {
            Verdict::Deny
        } else if any(&compiled.holds, &withholds) {
            Verdict::Ask
        } else if any(&compiled.grants, &grants) {
            Verdict::Allow
        } else {
            Verdict::Deny
        };
        prop_assert_eq!(policy.evaluate(&action).verdict, verdict);
    }

    #[test]
    fn an_edit_that_is_told_allows_the_action(entries in entries(), action in action()) {
        let Some(policy) = bound(&text_of(&entries, &[])) else { return Ok(()) };
        let Ok(edits) = policy.edits(&action) else { return Ok(()) };
        let mut kept: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
        let mut added = Vec::new();
        for edit in edits {
            match edit {
                Edit::Allow(entry) => added.push(entry),
                Edit::Remove(rule) => kept[rule.id.0 as usize - 1] = None,
            }
        }
        let kept: Vec<Entry> = kept.into_iter().flatten().collect();
        let edited = text_of(&kept, &added);
        let policy = bound(&edited);
        let verdict = policy.map(|policy| policy.verdict(&action).0);
        prop_assert_eq!(verdict, Some(Verdict::Allow), "{}", edited);
    }

    #[test]
    fn a_rule_that_is_said_to_decide_nothing_decides_nothing(entries in entries(), action in action(), at_home in any::<bool>()) {
        let home = if at_home { BINDINGS.home } else { "/work" };
        let verdict = |entries: &[Entry]| {
            let policy = Policy::parse(&text_of(entries, &[])).ok()?;
            let bound = policy.bind(&Bindings { home, ..BINDINGS }).ok()?;
            Some((policy, bound.verdict(&action).0))
        };
        let Some((policy, before)) = verdict(&entries) else { return Ok(()) };
        for warning in &policy.warnings {
            let Some(place) = &warning.place else { continue };
            if !warning.message.starts_with("this never happens")
                && !warning.message.starts_with("this is never allowed")
                && !warning.message.starts_with("this says nothing new")
            {
                continue;
            }
            let index = policy.rules.iter().position(|rule| rule.place == *place);
            let mut without = entries.clone();
            without.remove(index.unwrap_or_default());
            // With the last rule by which anything is executed the built-in rules of the runtime go too: an effect
            // of its own, which is not said of the rule.
            if executes(&without) != executes(&entries) {
                continue;
            }
            let after = verdict(&without).map(|(_, verdict)| verdict);
            prop_assert_eq!(after, Some(before), "{}", warning);
        }
    }

    #[test]
    fn an_allowance_that_is_told_is_written_as_a_policy_takes_it(path in "/[ -~äŁ\u{200b}\t]{1,12}(/[^/\0]{1,6}){0,2}", word in select(vec!["read", "write", "delete", "execute"])) {
        let Ok(action) = format!("{word}:{path}").parse::<Action>() else { return Ok(()) };
        let Some(policy) = bound("name: x\n") else { return Err(TestCaseError::fail("no policy")) };
        let Ok(edits) = policy.edits(&action) else { return Ok(()) };
        let added: Vec<String> = edits.iter().map(|edit| match edit {
            Edit::Allow(entry) => entry.clone(),
            Edit::Remove(rule) => rule.to_string(),
        }).collect();
        let edited = text_of(&[], &added);
        let policy = bound(&edited);
        prop_assert_eq!(policy.map(|policy| policy.verdict(&action).0), Some(Verdict::Allow), "{}", edited);
    }
}

/// What is told of a text is whole and lies in it.
fn look_at(text: &str) {
    let found = match Policy::parse(text) {
        Ok(policy) => policy.warnings,
        Err(found) => {
            assert!(!found.0.is_empty());
            found.0
        }
    };
    for found in found {
        assert!(!found.message.is_empty());
        if let Some(place) = &found.place {
            let lines = text.split(['\n', '\r']).count();
            assert!((1..=lines).contains(&place.line), "{place:?}");
            assert!(place.column >= 1 && place.length >= 1, "{place:?}");
            let shown = place.excerpt.chars().count();
            assert!(place.excerpt_column <= shown + 1, "{place:?}");
        }
        assert!(!found.render("x").is_empty());
    }
}

const VALID: [&str; 3] = [
    include_str!("published.yaml"),
    include_str!("../../../policies/openclaw.yaml"),
    r#"{name: x, version: 1, enforcement: {default: best_effort}, resources: {memory: 1GiB, io: {read_bytes_per_second: 1MB}}, denied_actions: [{read_files: [{paths: [".env", "~/.ssh"], reason: "why"}]}]}"#,
];

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn parsing_survives_arbitrary_text(text in any::<String>()) {
        look_at(&text);
    }

    #[test]
    fn parsing_survives_the_signs_of_yaml(parts in prop::collection::vec(select(vec![
        "a", "name", ":", ": ", "- ", "\n", "\n  ", "\r", "\t", "[", "]", "{", "}", ",", "?", "? ", "&a ", "*a", "!t ", "|", ">", "%", "@", "`", "#", " #", "\"", "'", "---", "...", "\\", "~", "null", "\u{feff}", "\u{85}", "\u{2028}", "\0", "ä", "0x", "${",
        "allowed_actions", "read_files", "privacy", "models", "upstream",
    ]), 0..40)) {
        look_at(&parts.concat());
    }

    #[test]
    fn parsing_survives_policies_with_slips(
        which in 0..VALID.len(),
        slips in prop::collection::vec((any::<Index>(), 0_usize..12, ".{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = VALID[which].chars().collect();
        for (at, removed, added) in slips {
            let start = at.index(text.len() + 1);
            let end = (start + removed).min(text.len());
            text.splice(start..end, added.chars());
        }
        look_at(&text.into_iter().collect::<String>());
    }

    #[test]
    fn any_text_is_an_action_or_says_why_not(text in any::<String>(), word in select(vec!["", "read:/", "write:/", "connect:", "connect:["])) {
        let policy = bound(VALID[2]);
        if let Ok(action) = format!("{word}{text}").parse::<Action>() {
            let policy = policy.ok_or_else(|| TestCaseError::fail("no policy"))?;
            let decision = policy.evaluate(&action);
            prop_assert_eq!(policy.verdict(&action).0, decision.verdict);
            prop_assert!(!decision.reason.is_empty());
            prop_assert_eq!(action.to_string().parse::<Action>().ok(), Some(action));
        }
    }
}
