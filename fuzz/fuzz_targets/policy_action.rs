//! Whatever is asked, a policy answers without a panic, the quick answer is the whole one's, and an action that
//! was understood means the same after it was written again.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use nemoclaw_policy::{Action, Bindings, BoundPolicy, Edit, Policy, RuleId, Verdict};

const TEXT: &str = r#"
name: fuzzed
audit: {path: "/audit"}
models: {upstream: {url: "http://127.0.0.1:8080/v1"}}
allowed_actions:
  - read_files: ["/a/*", "${workdir}/**/*.txt", "~/*"]
  - write_files: ["/a/b/*"]
  - delete_files: ["/a/b/c"]
  - execute_code: ["sh", "/usr/bin/*"]
  - network_access: ["*.example", "10.0.0.0/8:80", "[2001:db8::]:22"]
denied_actions:
  - read_files: [".env", "*.pem", "/a/**/secret"]
  - execute_code: ["curl"]
  - external_network: ["*"]
approval_required:
  - write_files: ["/a/b/*/d"]
"#;

static POLICY: LazyLock<Option<BoundPolicy>> = LazyLock::new(|| {
    let bindings = Bindings {
        home: "/home/ada",
        workdir: "/work",
    };
    Policy::parse(TEXT).ok()?.bind(&bindings).ok()
});

fuzz_target!(|text: &str| {
    let policy = POLICY.as_ref().expect("the policy is right");
    let Ok(action) = text.parse::<Action>() else {
        return;
    };
    let decision = policy.evaluate(&action);
    let rule = decision.rule.as_ref().map_or(RuleId::NONE, |rule| rule.id);
    assert_eq!(policy.verdict(&action), (decision.verdict, rule));
    assert_eq!(action.to_string().parse::<Action>().as_ref(), Ok(&action));

    // Where one more entry is all that is needed, the entry does what it says.
    if let Ok(edits) = policy.edits(&action)
        && let [Edit::Allow(entry)] = edits.as_slice()
    {
        let edited = TEXT.replace(
            "allowed_actions:\n",
            &format!("allowed_actions:\n  {entry}\n"),
        );
        let bindings = Bindings {
            home: "/home/ada",
            workdir: "/work",
        };
        let edited = Policy::parse(&edited).expect("the entry is part of the language");
        let edited = edited.bind(&bindings).expect("the entry can be bound");
        assert_eq!(edited.verdict(&action).0, Verdict::Allow, "{entry}");
    }
});
