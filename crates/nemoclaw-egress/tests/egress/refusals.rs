//! What the worker does not do, whatever it is sent.

use std::time::Duration;

use crate::harness::{Agent, Fake, Supervisor, Worker, ask, chat, json, run, spawn, within};
use http_body_util::BodyExt;
use nemoclaw_egress::{Configure, Control, FromWorker, Limits, ListenerKind, Outcome, Via};
use std::os::fd::AsFd;
use tokio::io::AsyncWriteExt;

#[test]
fn no_other_name_is_reached_and_each_attempt_is_on_record() {
    run(async {
        let fake = Fake::json("{}").await;
        let worker = Worker::start(&fake.url).await;
        for (number, (text, destination, via)) in [
            (
                "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n",
                "example.com:443",
                Via::Tunnel,
            ),
            (
                "GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n",
                "169.254.169.254",
                Via::Absolute,
            ),
            (
                "GET /v1/models HTTP/1.1\r\nHost: example.com\r\n",
                "example.com",
                Via::Origin,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let answer = ask(worker.proxy, format!("{text}Connection: close\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
            assert!(
                answer.contains(r#""code":"destination_not_allowed""#),
                "{answer}"
            );
            assert!(answer.contains("http://inference.local/v1"), "{answer}");
            let refused = worker.refused(number).await;
            assert_eq!(
                (refused.destination.as_str(), refused.via),
                (destination, Some(via))
            );
            assert_eq!(
                (refused.status, refused.code.as_str()),
                (403, "destination_not_allowed")
            );
        }
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn nothing_leaves_before_it_is_acknowledged() {
    run(async {
        let fake = Fake::json("{}").await;
        let limits = Limits {
            acknowledge_milliseconds: 300,
            ..Limits::default()
        };
        let worker = Worker::configured(&fake.url, Supervisor::Withholds, limits).await;
        let answer = ask(worker.model, chat("/v1/chat/completions", "{}")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains(r#""code":"not_recorded""#), "{answer}");
        let finished = worker.finished(0).await;
        assert_eq!(finished.outcome, Outcome::Unacknowledged);
        assert_eq!((finished.status, finished.request_bytes), (Some(503), 0));
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn what_the_supervisor_refuses_does_not_leave_and_the_agent_is_told_why() {
    run(async {
        let fake = Fake::json("{}").await;
        let supervisor = Supervisor::Refuses("the model `big` is not in `use_models`");
        let worker = Worker::configured(&fake.url, supervisor, Limits::default()).await;
        let answer = ask(
            worker.model,
            chat("/v1/chat/completions", r#"{"model":"big"}"#),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("is not in `use_models`"), "{answer}");
        assert_eq!(worker.finished(0).await.outcome, Outcome::Refused);
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn without_an_upstream_every_request_is_refused() {
    run(async {
        let worker = Worker::configured("", Supervisor::Acknowledges, Limits::default()).await;
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(worker.refused(0).await.code, "no_upstream");
    });
}

#[test]
fn the_worker_ends_when_its_supervisor_is_gone() {
    run(async {
        let fake = Fake::start(|_, _| async {
            tokio::time::sleep(crate::harness::PATIENCE).await;
            Ok(json("{}"))
        })
        .await;
        let mut worker = Worker::start(&fake.url).await;
        // In the middle of a request.
        let mut agent = Agent::connect(worker.model).await;
        agent.send(chat("/v1/models", "")).await;
        worker.started(0).await;
        worker.abandon().await;
        let status = tokio::time::timeout(Duration::from_secs(5), worker.child.wait()).await;
        assert!(status.expect("the worker lives on").unwrap().success());
        assert_eq!(agent.rest().await, "");
    });
}

#[test]
fn bytes_that_are_no_request_end_their_connection_only() {
    run(async {
        let fake = Fake::json("{}").await;
        let worker = Worker::start(&fake.url).await;
        let mut hostile: Vec<Vec<u8>> = [
            "\0\0\0\0",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
            "GET / HTTP/9.9\r\n\r\n",
            "GET /v1 HTTP/1.1\nHost inference.local\n\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "POST /v1/a HTTP/1.1\r\nHost: inference.local\r\nContent-Length: -1\r\n\r\n",
            "POST /v1/a HTTP/1.1\r\nHost: inference.local\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST /v1/a HTTP/1.1\r\nHost: inference.local\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "POST /v1/a HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: gzip\r\n\r\nab",
            "POST /v1/a HTTP/1.0\r\nHost: inference.local\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /v1 HTTP/1.1\r\nHost: inference.local\r\nX:\r\n y\r\n\r\n",
            "GET /v1 HTTP/1.1\r\nHost : inference.local\r\n\r\n",
        ]
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .collect();
        // Every byte value, at the start and within a header.
        hostile.push((0..=255).collect());
        hostile.push(
            [
                b"GET /v1 HTTP/1.1\r\nX: ".as_slice(),
                &(0..=255).collect::<Vec<u8>>(),
                b"\r\n\r\n",
            ]
            .concat(),
        );
        for bytes in &hostile {
            let answer = ask(worker.model, bytes).await;
            let text = String::from_utf8_lossy(bytes);
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
                "{text}: {answer}"
            );
        }
        let all = hostile.len();
        worker.refused(all - 1).await;
        assert_eq!(fake.asked(), 0);
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
}

#[test]
fn headers_beyond_the_limits_are_refused() {
    run(async {
        let fake = Fake::json("{}").await;
        let worker = Worker::start(&fake.url).await;
        let head = "GET /v1/models HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n";
        let large = format!("{head}X: {}\r\n\r\n", "a".repeat(70_000));
        let many = format!("{head}{}\r\n", "X: a\r\n".repeat(200));
        for text in [large, many] {
            let answer = ask(worker.model, text).await;
            assert!(
                answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
                "{answer}"
            );
        }
        assert_eq!(worker.refused(1).await.status, 431);
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn a_request_framed_in_two_ways_is_sent_on_framed_in_one() {
    run(async {
        let fake = Fake::start(|_, body| async {
            let bytes = body.collect().await.unwrap().to_bytes();
            assert_eq!(bytes, "abc");
            Ok(json("{}"))
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        for framing in [
            "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 30\r\n",
        ] {
            let text = format!(
                "POST /v1/a HTTP/1.1\r\nHost: inference.local\r\n{framing}Connection: close\r\n\r\n\
                 3\r\nabc\r\n0\r\n\r\n"
            );
            let answer = ask(worker.model, text).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        }
        for head in fake.heads.lock().unwrap().iter() {
            let lengths = head.headers.get_all("content-length").iter().count();
            let codings = head.headers.get_all("transfer-encoding").iter().count();
            assert_eq!(lengths + codings, 1, "{:?}", head.headers);
        }
    });
}

#[test]
fn an_upgrade_and_a_trace_are_refused() {
    run(async {
        let fake = Fake::json("{}").await;
        let worker = Worker::start(&fake.url).await;
        let head = "HTTP/1.1\r\nHost: inference.local\r\n";
        let upgrade = format!(
            "GET /v1/realtime {head}Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
        );
        let answer = ask(worker.model, upgrade).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("upgrade_refused"), "{answer}");
        let answer = ask(
            worker.model,
            format!("TRACE /v1/models {head}Connection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert_eq!(worker.refused(1).await.code, "method_refused");
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn a_body_beyond_the_limit_is_refused_whether_it_is_announced_or_not() {
    run(async {
        let fake = Fake::start(|_, body| async {
            let _ = body.collect().await;
            Ok(json("{}"))
        })
        .await;
        let limits = Limits {
            request_bytes: 100,
            peek_bytes: 10,
            ..Limits::default()
        };
        let worker = Worker::configured(&fake.url, Supervisor::Acknowledges, limits).await;
        let announced = ask(worker.model, chat("/v1/a", &" ".repeat(101))).await;
        assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
        assert_eq!(worker.refused(0).await.code, "body_too_large");
        assert_eq!(fake.asked(), 0);

        let mut agent = Agent::connect(worker.model).await;
        agent.send("POST /v1/a HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").await;
        agent.send(format!("32\r\n{}\r\n", "x".repeat(50))).await;
        worker.started(0).await;
        agent
            .send(format!("40\r\n{}\r\n0\r\n\r\n", "x".repeat(64)))
            .await;
        let answer = agent.rest().await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        let finished = worker.finished(0).await;
        assert_eq!(finished.outcome, Outcome::ClientError);
        assert!(finished.request_bytes <= 100);
    });
}

#[test]
fn a_model_named_twice_is_refused() {
    run(async {
        let fake = Fake::json("{}").await;
        let worker = Worker::start(&fake.url).await;
        let body = r#"{"model":"a","x":[],"mod\u0065l":"b"}"#;
        let answer = ask(worker.model, chat("/v1/chat/completions", body)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(worker.refused(0).await.code, "model_repeated");
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn an_agent_that_is_slow_to_speak_or_to_read_is_let_go() {
    run(async {
        // More than the sockets hold.
        let text: &'static str = "x".repeat(32 * 1024 * 1024).leak();
        let fake = Fake::json(text).await;
        let limits = Limits {
            header_milliseconds: 300,
            client_idle_milliseconds: 300,
            ..Limits::default()
        };
        let worker = Worker::configured(&fake.url, Supervisor::Acknowledges, limits).await;

        let mut slow = Agent::connect(worker.model).await;
        slow.send("GET /v1/models HTTP/1.1\r\nHost: infer").await;
        let answer = slow.rest().await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
            "{answer}"
        );

        let body = chat("/v1/a", r#"{"model":"#).replace("Content-Length: 9", "Content-Length: 90");
        let answer = ask(worker.model, body).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert_eq!(worker.refused(0).await.code, "body_paused");

        let mut deaf = Agent::connect(worker.model).await;
        deaf.send(chat("/v1/models", "")).await;
        assert_eq!(worker.finished(0).await.outcome, Outcome::ClientGone);
    });
}

#[test]
fn requests_beyond_the_limit_wait_and_are_then_refused() {
    run(async {
        let fake = Fake::start(|_, _| async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(json("{}"))
        })
        .await;
        let limits = Limits {
            requests: 1,
            queue_milliseconds: 100,
            ..Limits::default()
        };
        let worker = Worker::configured(&fake.url, Supervisor::Acknowledges, limits).await;
        let mut first = Agent::connect(worker.model).await;
        first.send(chat("/v1/models", "")).await;
        worker.started(0).await;
        let second = ask(worker.model, chat("/v1/models", "")).await;
        assert!(second.starts_with("HTTP/1.1 503 "), "{second}");
        assert_eq!(worker.refused(0).await.code, "too_many_requests_open");
        assert!(first.rest().await.starts_with("HTTP/1.1 200 "));
    });
}

#[test]
fn refusals_are_on_record_also_when_the_agent_hangs_up_at_once() {
    run(async {
        let worker = Worker::start("http://127.0.0.1:9/v1").await;
        for _ in 0..300 {
            // Hangs up without reading the answer.
            let mut agent = Agent::connect(worker.proxy).await;
            agent
                .send("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
                .await;
            agent.0.shutdown().await.unwrap();
        }
        worker.until(|list| (list.len() >= 300).then_some(())).await;
        let answer = ask(
            worker.proxy,
            "CONNECT last.example:443 HTTP/1.1\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert_eq!(worker.refused(300).await.destination, "last.example:443");
        assert_eq!(worker.count(), 301);
    });
}

#[test]
fn a_worker_that_is_told_nonsense_ends_with_a_reason() {
    run(async {
        for text in [
            "{\"acknowledge\":{\"id\":1}}\n",
            "{}\n",
            "\u{0}\n",
            "{\"configure\":",
        ] {
            let (mut child, mut stream) = spawn(&[]);
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            assert!(!within(child.wait()).await.unwrap().success(), "{text}");
        }
        // No control channel at all.
        let status = tokio::process::Command::new(env!("CARGO_BIN_EXE_nemoclaw-egress"))
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        assert!(!within(status).await.unwrap().success());
    });
}

#[test]
fn a_descriptor_that_does_not_listen_is_told_to_the_supervisor() {
    run(async {
        let (mut child, stream) = spawn(&[]);
        let (other, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let configure = Configure {
            agent_id: "test".to_owned(),
            listeners: vec![ListenerKind::Model],
            upstream: None,
            limits: Limits::default(),
        };
        let mut control = Control::connect(stream, configure, &[other.as_fd()])
            .await
            .unwrap();
        let Some(FromWorker::Failed(failed)) = within(control.recv()).await.unwrap() else {
            panic!("the worker did not say that it cannot start");
        };
        assert!(
            failed.reason.contains("not a listening"),
            "{}",
            failed.reason
        );
        assert!(!within(child.wait()).await.unwrap().success());
    });
}

#[test]
fn a_connection_that_asks_for_nothing_more_is_closed() {
    run(async {
        let fake = Fake::json("{}").await;
        let limits = Limits {
            header_milliseconds: 300,
            ..Limits::default()
        };
        let worker = Worker::configured(&fake.url, Supervisor::Acknowledges, limits).await;
        let tunnel = "CONNECT inference.local:80 HTTP/1.1\r\nHost: inference.local:80\r\n\r\n";
        let once = chat("/v1/models", "").replace("Connection: close\r\n", "");
        for (address, text) in [
            (worker.model, String::new()),
            (worker.model, once.clone()),
            (worker.proxy, tunnel.to_owned()),
            (worker.proxy, format!("{tunnel}{once}")),
        ] {
            let answer = ask(address, &text).await;
            assert!(answer.is_empty() == text.is_empty(), "{text}: {answer}");
        }
    });
}

#[test]
fn limits_without_bound_are_no_harm() {
    run(async {
        let fake = Fake::json("{}").await;
        let limits = Limits {
            connections: u32::MAX,
            requests: u32::MAX,
            queue_milliseconds: u64::MAX,
            header_bytes: 0,
            headers: u32::MAX,
            header_milliseconds: u64::MAX,
            request_bytes: u64::MAX,
            peek_bytes: u32::MAX,
            client_idle_milliseconds: u64::MAX,
            acknowledge_milliseconds: u64::MAX,
            connect_milliseconds: u64::MAX,
            response_milliseconds: u64::MAX,
            upstream_idle_milliseconds: u64::MAX,
        };
        let worker = Worker::configured(&fake.url, Supervisor::Acknowledges, limits).await;
        let answer = ask(worker.model, chat("/v1/models", "{}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
}
