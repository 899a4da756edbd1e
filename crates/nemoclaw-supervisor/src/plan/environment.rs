//! The agent's environment: nothing is inherited that the policy does not pass.

use super::{HOME, MODEL_ADDRESS, PROXY_PORT, Request};

/// `NAME=value`, sorted. Later sources win: what the sandbox needs, what the
/// policy passes, what the policy sets.
pub(super) fn environment(request: &Request<'_>) -> Vec<String> {
    let policy = request.policy.policy();
    let mut variables = std::collections::BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        variables.insert(name.to_owned(), value.to_owned());
    };
    set("PATH", &request.policy.path_directories.join(":"));
    set("HOME", HOME);
    set("USER", "agent");
    set("LOGNAME", "agent");
    set("SHELL", "/bin/sh");
    set("TMPDIR", "/tmp");
    if request.terminal.contains(&true) {
        set("TERM", "xterm-256color");
    }
    if policy.models.upstream.is_some() {
        let proxy = format!("http://{MODEL_ADDRESS}:{PROXY_PORT}");
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            set(name, &proxy);
        }
        for name in ["NO_PROXY", "no_proxy"] {
            set(name, "localhost,127.0.0.1,::1");
        }
        for name in ["OPENAI_BASE_URL", "OPENAI_API_BASE"] {
            set(name, "http://inference.local/v1");
        }
        // Anthropic's clients append `/v1` themselves.
        set("ANTHROPIC_BASE_URL", "http://inference.local");
        // Clients refuse to start without a key; the real one stays outside.
        for name in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"] {
            set(name, "placeholder-the-real-key-stays-outside");
        }
    }
    for (name, value) in request.passed {
        set(name, value);
    }
    for (name, value) in &policy.environment.set {
        set(name, value);
    }
    variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}
