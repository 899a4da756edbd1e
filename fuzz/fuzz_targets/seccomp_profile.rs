//! Whatever the text, reading a profile and compiling it ends without a panic, and a filter that comes
//! out is one the kernel's limits allow.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nemoclaw_sandbox::seccomp::{Architecture, Profile, RefusalAction};

fuzz_target!(|text: &str| {
    let Ok(profile) = Profile::parse(text) else {
        return;
    };
    for architecture in Architecture::ALL {
        for action in [RefusalAction::Notify, RefusalAction::Errno] {
            if let Ok(filter) = profile.compile(architecture, action) {
                assert!((1..=4096).contains(&filter.instructions.len()));
                let _ = (filter.answer(-1), profile.reason(architecture, 0));
            }
        }
    }
});
