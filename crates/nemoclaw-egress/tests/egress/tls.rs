//! An upstream that is spoken to over TLS.

use std::sync::Arc;

use nemoclaw_egress::{Limits, Outcome};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::{Fake, KEY, Supervisor, Worker, ask, chat, json, run};

const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/egress/certificates");

async fn secured() -> Fake {
    let certificate = CertificateDer::from_pem_file(format!("{CERTIFICATES}/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{CERTIFICATES}/server-key.pem")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Fake::listening(
        "https",
        |_, _| async { Ok(json("{}")) },
        move |stream| acceptor.accept(stream),
    )
    .await
}

async fn worker(url: &str) -> Worker {
    let authority = format!("{CERTIFICATES}/authority.pem");
    let environment = [("SSL_CERT_FILE", authority.as_str())];
    Worker::launched(
        url,
        Supervisor::Acknowledges,
        Limits::default(),
        &environment,
    )
    .await
}

#[test]
fn a_request_reaches_an_upstream_over_tls() {
    run(async {
        let fake = secured().await;
        let worker = worker(&fake.url.replace("127.0.0.1", "localhost")).await;
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let head = fake.heads.lock().unwrap().remove(0);
        assert_eq!(head.headers["authorization"], format!("Bearer {KEY}"));
    });
}

#[test]
fn an_upstream_whose_certificate_is_for_another_name_gets_nothing() {
    run(async {
        let fake = secured().await;
        let worker = worker(&fake.url).await;
        let answer = ask(worker.model, chat("/v1/models", "")).await;
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        let finished = worker.finished(0).await;
        assert_eq!(finished.outcome, Outcome::UpstreamError);
        let reason = finished.reason.unwrap();
        assert!(reason.contains("certificate"), "{reason}");
        assert_eq!(fake.asked(), 0);
    });
}

#[test]
fn a_worker_without_certificates_says_so_before_it_serves() {
    run(async {
        use nemoclaw_egress::{
            Configure, Control, FromWorker, ListenerKind, Upstream, UpstreamUrl,
        };
        use std::os::fd::AsFd;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut child, stream) = crate::harness::spawn(&[("SSL_CERT_FILE", "/dev/null")]);
        let configure = Configure {
            agent_id: "test".to_owned(),
            listeners: vec![ListenerKind::Model],
            upstream: Some(Upstream {
                url: UpstreamUrl::try_from("https://localhost:9/v1").unwrap(),
                key: None,
            }),
            limits: Limits::default(),
        };
        let mut control = Control::connect(stream, configure, &[listener.as_fd()])
            .await
            .unwrap();
        let told = crate::harness::within(control.recv()).await.unwrap();
        let Some(FromWorker::Failed(failed)) = told else {
            panic!("the worker said {told:?}");
        };
        assert!(
            failed.reason.contains("ca-certificates"),
            "{}",
            failed.reason
        );
        let status = crate::harness::within(child.wait()).await.unwrap();
        assert!(!status.success());
    });
}
