//! Holds the shipped policies to the language: each is accepted, and nothing about it is doubtful.

use std::path::Path;

use nemoclaw_policy::Policy;

#[test]
fn every_shipped_policy_is_accepted_without_a_warning() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        let policy =
            Policy::parse(&text).unwrap_or_else(|errors| panic!("{}", errors.render(&name)));
        assert_eq!(policy.warnings, [], "{name}");
        count += 1;
    }
    assert!(count >= 2, "the policies are where they are looked for");
}
