//! What the worker promises an agent that asks for what is allowed.

use std::io;

use crate::harness::{Agent, Fake, KEY, Worker, ask, chat, json, run, streamed, within};
use bytes::Bytes;
use http_body_util::BodyExt;
use nemoclaw_egress::{Finished, Outcome, Started, Via};
use tokio::sync::mpsc;

const ANSWER: &str =
    r#"{"model":"big-1","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}"#;

#[test]
fn a_request_reaches_the_upstream_with_the_real_key_and_is_on_record() {
    run(async {
        let fake = Fake::json(ANSWER).await;
        let worker = Worker::start(&fake.url).await;
        let body = r#"{"messages":[],"model":"big"}"#;
        let answer = ask(worker.model, chat("/v1/chat/completions?a=b", body)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with(ANSWER), "{answer}");

        let head = fake.heads.lock().unwrap().remove(0);
        assert_eq!(head.uri.to_string(), "/base/v1/chat/completions?a=b");
        assert_eq!(head.headers["authorization"], format!("Bearer {KEY}"));
        assert_eq!(
            head.headers["host"],
            fake.url[7..].split('/').next().unwrap()
        );
        assert_eq!(head.headers["content-length"], body.len().to_string());
        assert!(!format!("{:?}", head.headers).contains("agents-own"));

        let started = worker.started(0).await;
        assert_eq!(
            started,
            Started {
                id: 1,
                via: Via::Origin,
                method: "POST".to_owned(),
                host: "inference.local".to_owned(),
                path: "/v1/chat/completions".to_owned(),
                peer_port: started.peer_port,
                model: Some("big".to_owned()),
            }
        );
        let finished = worker.finished(0).await;
        assert_eq!(
            finished,
            Finished {
                id: 1,
                outcome: Outcome::Ok,
                reason: None,
                status: Some(200),
                request_bytes: body.len() as u64,
                response_bytes: ANSWER.len() as u64,
                milliseconds: finished.milliseconds,
                model: Some("big-1".to_owned()),
                input_tokens: Some(11),
                output_tokens: Some(5),
            }
        );
    });
}

#[test]
fn events_arrive_one_by_one_and_not_together() {
    run(async {
        let (give, mut take) = mpsc::channel(1);
        let fake = Fake::start(move |_, _| {
            let give = give.clone();
            async move {
                let (sender, response) = streamed("text/event-stream");
                give.send(sender).await.unwrap();
                Ok(response)
            }
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let mut agent = Agent::connect(worker.model).await;
        agent
            .send(chat(
                "/v1/chat/completions",
                r#"{"model":"m","stream":true}"#,
            ))
            .await;
        let events = within(take.recv()).await.unwrap();
        events.send(Ok("data: {\"n\":1}\n\n")).await.unwrap();
        // The second event does not exist yet when the first one is here.
        agent.until("{\"n\":1}").await;
        events.send(Ok("data: {\"n\":2}\n\n")).await.unwrap();
        agent.until("{\"n\":2}").await;
        let last = "data: {\"model\":\"m-9\",\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n";
        events.send(Ok(last)).await.unwrap();
        drop(events);
        assert!(agent.rest().await.ends_with("\r\n0\r\n\r\n"));
        let finished = worker.finished(0).await;
        assert_eq!(finished.outcome, Outcome::Ok);
        assert_eq!(finished.model.as_deref(), Some("m-9"));
        assert_eq!(
            (finished.input_tokens, finished.output_tokens),
            (Some(2), Some(3))
        );
    });
}

#[test]
fn a_request_body_is_sent_on_before_it_is_complete() {
    run(async {
        let (give, mut take) = mpsc::channel::<Bytes>(8);
        let fake = Fake::start(move |_, mut body| {
            let give = give.clone();
            async move {
                while let Some(Ok(frame)) = body.frame().await {
                    give.send(frame.into_data().unwrap()).await.unwrap();
                }
                Ok(json("{}"))
            }
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let mut agent = Agent::connect(worker.model).await;
        agent
            .send("POST /v1/audio/transcriptions HTTP/1.1\r\nHost: inference.local\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nfirst\r\n")
            .await;
        assert_eq!(within(take.recv()).await.unwrap(), "first");
        agent.send("6\r\nsecond\r\n").await;
        assert_eq!(within(take.recv()).await.unwrap(), "second");
        agent.send("0\r\n\r\n").await;
        assert!(agent.rest().await.starts_with("HTTP/1.1 200 OK"));
        assert_eq!(worker.finished(0).await.request_bytes, 11);
    });
}

#[test]
fn a_key_that_the_upstream_repeats_does_not_reach_the_agent() {
    run(async {
        let fake = Fake::start(|parts, _| async move {
            let (sender, mut response) = streamed("text/plain");
            response
                .headers_mut()
                .insert("x-debug", parts.headers["authorization"].clone());
            tokio::spawn(async move {
                // Cut in the middle.
                for piece in ["you sent sk-real-0123", "456789abcdef", ", did you"] {
                    sender.send(Ok(piece)).await.unwrap();
                }
            });
            Ok(response)
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.contains("you sent "), "{answer}");
        assert!(answer.contains(", did you"), "{answer}");
        assert!(!answer.contains("0123"), "{answer}");
        assert!(answer.contains(&"*".repeat(12)), "{answer}");
    });
}

#[test]
fn the_proxy_serves_the_models_by_tunnel_and_by_whole_url() {
    run(async {
        let fake = Fake::json(ANSWER).await;
        let worker = Worker::start(&fake.url).await;

        let mut agent = Agent::connect(worker.proxy).await;
        agent
            .send("CONNECT inference.local:80 HTTP/1.1\r\nHost: inference.local:80\r\n\r\n")
            .await;
        let opened = agent.until("\r\n\r\n").await;
        assert!(opened.starts_with("HTTP/1.1 200 OK\r\n"), "{opened}");
        for _ in 0..3 {
            agent
                .send("GET /v1/models HTTP/1.1\r\nHost: inference.local\r\n\r\n")
                .await;
            agent.until(ANSWER).await;
        }
        assert_eq!(worker.started(2).await.via, Via::Tunnel);

        let answer = ask(worker.proxy, chat("http://inference.local/v1/models", "")).await;
        assert!(answer.ends_with(ANSWER), "{answer}");
        let started = worker.started(3).await;
        assert_eq!(
            (started.via, started.path.as_str()),
            (Via::Absolute, "/v1/models")
        );
        assert_eq!(fake.asked(), 4);
        let heads = fake.heads.lock().unwrap();
        assert!(heads.iter().all(|head| head.uri == "/base/v1/models"));
    });
}

#[test]
fn sixty_four_agents_with_three_requests_each_are_all_served() {
    run(async {
        let fake = Fake::json(ANSWER).await;
        let worker = Worker::start(&fake.url).await;
        let mut tasks = Vec::new();
        for number in 0..64 {
            let address = worker.model;
            tasks.push(tokio::spawn(async move {
                let mut agent = Agent::connect(address).await;
                for _ in 0..3 {
                    let body = format!(r#"{{"model":"m{number}"}}"#);
                    let request =
                        chat("/v1/chat/completions", &body).replace("Connection: close\r\n", "");
                    agent.send(request).await;
                    agent.until(ANSWER).await;
                }
            }));
        }
        for task in tasks {
            within(task).await.unwrap();
        }
        assert_eq!(fake.asked(), 192);
        assert_eq!(worker.finished(191).await.outcome, Outcome::Ok);
    });
}

#[test]
fn an_upstream_that_is_not_there_is_told_as_an_error_object() {
    run(async {
        // A port that was just free: nothing listens there.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        drop(listener);
        let worker = Worker::start(&url).await;
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(
            answer.contains(r#""code":"upstream_unreachable""#),
            "{answer}"
        );
        let finished = worker.finished(0).await;
        assert_eq!(
            (finished.outcome, finished.status),
            (Outcome::UpstreamError, Some(502))
        );
        assert!(finished.reason.unwrap().contains("refused"));
    });
}

#[test]
fn an_upstream_that_dies_midway_ends_the_body_without_its_end() {
    run(async {
        let fake = Fake::start(|_, _| async {
            let (sender, response) = streamed("text/event-stream");
            tokio::spawn(async move {
                sender.send(Ok("data: 1\n\n")).await.unwrap();
                sender.send(Err(io::Error::other("dies"))).await.unwrap();
            });
            Ok(response)
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let answer = ask(worker.model, chat("/v1/chat/completions", "{}")).await;
        assert!(answer.contains("data: 1\n\n"), "{answer}");
        assert!(!answer.contains("\r\n0\r\n"), "{answer}");
        let finished = worker.finished(0).await;
        assert_eq!(finished.outcome, Outcome::UpstreamError);
        assert_eq!((finished.status, finished.response_bytes), (Some(200), 9));
    });
}

#[test]
fn an_agent_that_goes_away_ends_the_request_upstream() {
    run(async {
        let (give, mut take) = mpsc::channel(1);
        let fake = Fake::start(move |_, _| {
            let give = give.clone();
            async move {
                let (sender, response) = streamed("text/event-stream");
                give.send(sender).await.unwrap();
                Ok(response)
            }
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let mut agent = Agent::connect(worker.model).await;
        agent.send(chat("/v1/chat/completions", "{}")).await;
        let events = within(take.recv()).await.unwrap();
        events.send(Ok("data: 1\n\n")).await.unwrap();
        agent.until("data: 1").await;
        drop(agent);
        assert_eq!(worker.finished(0).await.outcome, Outcome::ClientGone);
        within(events.closed()).await;
    });
}

#[test]
fn a_redirect_a_compressed_answer_and_a_cookie_are_not_passed_on() {
    run(async {
        let fake = Fake::start(|parts, _| async move {
            let mut response = json("{}");
            match parts.uri.path() {
                "/base/v1/moved" => {
                    *response.status_mut() = hyper::StatusCode::TEMPORARY_REDIRECT;
                    let place = "http://169.254.169.254/latest".parse().unwrap();
                    response.headers_mut().insert("location", place);
                }
                "/base/v1/packed" => {
                    let coding = "gzip".parse().unwrap();
                    response.headers_mut().insert("content-encoding", coding);
                }
                _ => {
                    let cookie = "a=b".parse().unwrap();
                    response.headers_mut().insert("set-cookie", cookie);
                }
            }
            Ok(response)
        })
        .await;
        let worker = Worker::start(&fake.url).await;
        let moved = ask(worker.model, chat("/v1/moved", "")).await;
        assert!(moved.starts_with("HTTP/1.1 502 "), "{moved}");
        assert!(moved.contains("upstream_redirected"), "{moved}");
        assert!(!moved.contains("169.254"), "{moved}");
        let packed = ask(worker.model, chat("/v1/packed", "")).await;
        assert!(packed.contains("upstream_compressed"), "{packed}");
        let plain = ask(worker.model, chat("/v1/plain", "")).await;
        assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
        assert!(!plain.contains("cookie"), "{plain}");
        assert_eq!(fake.asked(), 3);
    });
}

#[test]
fn a_head_request_keeps_the_length_and_has_no_body() {
    run(async {
        let fake = Fake::json(ANSWER).await;
        let worker = Worker::start(&fake.url).await;
        let request =
            "HEAD /v1/models HTTP/1.1\r\nHost: inference.local\r\nConnection: close\r\n\r\n";
        let answer = ask(worker.model, request).await;
        assert!(
            answer.contains(&format!("content-length: {}\r\n", ANSWER.len())),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(worker.finished(0).await.outcome, Outcome::Ok);
    });
}
