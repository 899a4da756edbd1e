//! The model socket: the agent's requests reach the model, its key never reaches the agent.

use nemoclaw_tests::{Bench, Policy, Upstream, host, is_root};

const KEY: &str = "sk-the-real-key-0123456789abcdef";

fn policy(bench: &Bench, upstream: &Upstream) -> Policy {
    bench.policy().section(&format!(
        "models: {{upstream: {{url: \"{}\", key: {{from: env, name: MODEL_KEY}}}}}}",
        upstream.url()
    ))
}

#[test]
fn a_request_to_the_base_url_reaches_the_model_with_the_real_key() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let run = bench
        .probing(
            &policy(&bench, &upstream),
            &[
                "post-model:local",
                "get-model:/models",
                "environment",
                "resolve:inference.local",
            ],
        )
        .environment("MODEL_KEY", KEY)
        .run();
    assert_eq!(run.code(), 0, "{run}");
    let answer = run.allowed("post-model:local");
    assert_eq!(answer["status"], 200, "{answer}");
    assert!(
        answer["body"].as_str().unwrap().contains("hello back"),
        "{answer}"
    );
    assert_eq!(run.allowed("get-model:/models")["status"], 200);
    let seen = upstream.requests();
    assert_eq!(seen.len(), 2, "{seen:?}");
    for request in &seen {
        assert_eq!(
            request.header("authorization"),
            Some(format!("Bearer {KEY}").as_str()),
            "{request:?}"
        );
        assert_eq!(
            request.header("host"),
            Some(upstream.address().to_string().as_str()),
            "{request:?}"
        );
    }
    let inside = run.allowed("environment");
    assert_eq!(inside["OPENAI_BASE_URL"], "http://inference.local/v1");
    assert_eq!(inside["OPENAI_API_BASE"], "http://inference.local/v1");
    assert_eq!(inside["ANTHROPIC_BASE_URL"], "http://inference.local");
    assert!(inside.get("MODEL_KEY").is_none());
    assert!(!run.output.contains(KEY), "{run}");
}

#[test]
fn a_request_and_its_answer_are_on_record_without_the_key() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let run = bench
        .probing(&policy(&bench, &upstream), &["post-model:local"])
        .environment("MODEL_KEY", KEY)
        .run();
    assert_eq!(run.allowed("post-model:local")["status"], 200, "{run}");
    let requests = bench.entries_of("model_request");
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0]["model_used"], "local");
    assert_eq!(requests[0]["policy_decision"], "allow");
    assert_eq!(
        requests[0]["resource"],
        "POST http://inference.local/v1/chat/completions"
    );
    let responses = bench.entries_of("model_response");
    assert_eq!(responses.len(), 1, "{responses:?}");
    assert_eq!(responses[0]["cost_tokens"], 7, "{responses:?}");
    assert!(responses[0]["execution_time_ms"].is_u64(), "{responses:?}");
    assert!(!std::fs::read_to_string(bench.log()).unwrap().contains(KEY));
}

#[test]
fn an_answer_streams_as_it_comes() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let run = bench
        .probing(&policy(&bench, &upstream), &["post-model:stream-it"])
        .environment("MODEL_KEY", KEY)
        .run();
    let answer = run.allowed("post-model:stream-it");
    assert!(
        answer["body"].as_str().unwrap().contains("[DONE]"),
        "{answer}"
    );
    let times: Vec<u64> = answer["milliseconds"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(serde_json::Value::as_u64)
        .collect();
    // The upstream pauses twice; held back, all would come at its end.
    let spread = times.last().unwrap() - times.first().unwrap();
    assert!(spread >= 400, "{times:?}");
    assert_eq!(bench.entries_of("model_response")[0]["cost_tokens"], 7);
}

#[test]
fn the_proxy_serves_the_model_by_whole_url_and_by_tunnel_and_nothing_else() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let elsewhere = format!("get-through-proxy:http://{}/v1/models", upstream.address());
    let tunnel_elsewhere = format!("get-through-tunnel:http://{}/v1/models", upstream.address());
    let direct = format!("get:http://{}/v1/models", upstream.address());
    let tries = [
        "get-through-proxy:http://inference.local/v1/models",
        "get-through-tunnel:http://inference.local/v1/models",
        "get-through-proxy:http://example.com/",
        "get-through-tunnel:http://example.com/",
        "get-through-proxy:http://169.254.169.254/latest/meta-data",
        &elsewhere,
        &tunnel_elsewhere,
        &direct,
        "get-model:/../admin",
    ];
    let run = bench
        .probing(&policy(&bench, &upstream), &tries)
        .environment("MODEL_KEY", KEY)
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert_eq!(run.allowed(tries[0])["status"], 200);
    assert_eq!(run.allowed(tries[1])["status"], 200);
    assert_eq!(run.allowed(tries[2])["status"], 403);
    assert_eq!(run.allowed(tries[3])["tunnel"], 403);
    assert_eq!(run.allowed(tries[4])["status"], 403);
    assert_eq!(run.allowed(&elsewhere)["status"], 403);
    assert_eq!(run.allowed(&tunnel_elsewhere)["tunnel"], 403);
    run.refused(&direct);
    assert_eq!(run.allowed("get-model:/../admin")["status"], 400);
    assert_eq!(upstream.requests().len(), 2, "{:?}", upstream.requests());
    // What was turned away is on record.
    let refused = bench.entries_of("connect");
    assert!(
        refused
            .iter()
            .all(|entry| entry["policy_decision"] == "deny"),
        "{refused:?}"
    );
    assert!(
        refused
            .iter()
            .any(|entry| entry["resource"].as_str().unwrap().contains("example.com")),
        "{refused:?}"
    );
}

#[test]
fn curl_finds_the_model_by_its_name_and_by_the_proxy() {
    let bench = Bench::new();
    if !std::path::Path::new("/usr/bin/curl").exists() {
        nemoclaw_tests::skip("curl", "it is not installed");
        return;
    }
    let upstream = Upstream::start();
    let script = "curl -sS --fail --noproxy '*' $OPENAI_BASE_URL/models && curl -sS --fail $OPENAI_BASE_URL/models \
                  && curl -sS --fail --proxytunnel $OPENAI_BASE_URL/models";
    let run = bench
        .agent(&policy(&bench, &upstream), &["sh", "-c", script])
        .environment("MODEL_KEY", KEY)
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert_eq!(
        run.output.matches("\"object\":\"list\"").count(),
        3,
        "{run}"
    );
}

#[test]
fn a_key_from_a_file_is_out_of_the_agents_reach() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    // In the workspace itself, where people do put it.
    bench.write(&bench.work("model.key"), &format!("{KEY}\n"));
    std::fs::hard_link(bench.work("model.key"), bench.work("second")).unwrap();
    let policy = bench.policy().section(&format!(
        "models: {{upstream: {{url: \"{}\", key: {{from: file, path: \"{}\"}}}}}}",
        upstream.url(),
        bench.work("model.key").display()
    ));
    let run = bench
        .probing(
            &policy,
            &[
                "post-model:local",
                "read:model.key",
                "rename:model.key:other",
                "read:other",
                "read:second",
            ],
        )
        .run();
    assert_eq!(run.code(), 0, "{run}");
    assert_eq!(run.allowed("post-model:local")["status"], 200, "{run}");
    run.all_refused(&[
        "read:model.key",
        "rename:model.key:other",
        "read:other",
        "read:second",
    ]);
    assert!(!run.output.contains(KEY), "{run}");
}

#[test]
fn the_worker_that_carries_requests_is_jailed_itself() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let live = bench
        .probing(&policy(&bench, &upstream), &["create:ready", "wait-for:go"])
        .environment("MODEL_KEY", KEY)
        .start();
    assert!(nemoclaw_tests::within(
        std::time::Duration::from_secs(20),
        || bench.work("ready").exists()
    ));
    let worker = host::descendant_named(live.id(), "nemoclaw-egress").unwrap();
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", worker.id));
    let status = of("status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    };
    assert!(field("Uid").split('\t').all(|id| id != "0"), "{status}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    // A process that is not its user's to look at tells root only.
    if is_root() {
        for mount in of("mountinfo").unwrap().lines() {
            let fields: Vec<&str> = mount.split(' ').collect();
            let (path, flags) = (fields[4], fields[5]);
            assert!(
                path == "/proc" || flags.split(',').any(|flag| flag == "ro"),
                "{mount}"
            );
            assert!(flags.contains("nosuid"), "{mount}");
        }
        let root = format!("/proc/{}/root", worker.id);
        for absent in [
            "/home",
            "/root",
            "/var",
            "/bin/sh",
            "/usr/bin",
            "/etc/shadow",
            "/etc/passwd",
        ] {
            assert!(
                !std::path::Path::new(&format!("{root}{absent}")).exists(),
                "{absent}"
            );
        }
        assert!(
            !of("environ").unwrap().contains(KEY),
            "the key is not among its variables"
        );
        assert!(
            !of("cmdline").unwrap().contains(KEY),
            "the key is not among its arguments"
        );
    }
    bench.write(&bench.work("go"), "");
    assert_eq!(live.finish().code(), 0);
}

#[test]
fn a_key_that_is_not_there_stops_the_launch_and_is_named() {
    let bench = Bench::new();
    let upstream = Upstream::start();
    let run = bench.probing(&policy(&bench, &upstream), &["pid"]).run();
    assert_eq!(run.code(), 125, "{run}");
    assert!(run.error.contains("MODEL_KEY"), "{run}");
}

#[test]
fn an_upstream_that_is_not_there_is_told_to_the_agent() {
    let bench = Bench::new();
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let policy = bench.policy().section(&format!(
        "models: {{upstream: {{url: \"http://127.0.0.1:{port}/v1\"}}}}"
    ));
    let run = bench.probing(&policy, &["post-model:local"]).run();
    assert_eq!(run.code(), 0, "{run}");
    assert_eq!(run.allowed("post-model:local")["status"], 502, "{run}");
    assert_eq!(
        bench.entries_of("model_response")[0]["policy_decision"],
        "error"
    );
}
