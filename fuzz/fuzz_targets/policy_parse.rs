//! Whatever the text, reading a policy ends without a panic; what is wrong has a place in the text, and a
//! policy that comes out can be bound and compiled.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nemoclaw_policy::{Bindings, Policy};

fuzz_target!(|text: &str| {
    let found = match Policy::parse(text) {
        Ok(policy) => {
            let bindings = Bindings {
                home: "/home/ada",
                workdir: "/work",
            };
            match policy.bind(&bindings) {
                Ok(bound) => {
                    let compiled = bound.compile();
                    assert!(!compiled.grants.is_empty());
                    policy.warnings
                }
                Err(wrong) => wrong.0,
            }
        }
        Err(wrong) => {
            assert!(!wrong.0.is_empty());
            wrong.0
        }
    };
    let lines = text.split(['\n', '\r']).count();
    for found in found {
        if let Some(place) = &found.place {
            assert!((1..=lines).contains(&place.line) && place.column >= 1);
        }
        assert!(!found.render("policy").is_empty());
    }
});
