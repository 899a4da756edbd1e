//! The connections to the upstream, over TLS where its URL says so.

use std::error::Error;
use std::io;
use std::time::Duration;

use hyper::Request;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::Upload;
use crate::protocol::{Limits, Upstream};

/// Connections that are kept open while idle are closed after this.
const IDLE: Duration = Duration::from_secs(30);
/// Keep-alive probes tell a dead upstream from a slow one.
const PROBE: Duration = Duration::from_secs(30);

/// A pool of connections.
pub(crate) enum Connections {
    Plain(Client<HttpConnector, Upload>),
    Tls(Client<HttpsConnector<HttpConnector>, Upload>),
}

impl Connections {
    /// Reads the system's roots where TLS is used.
    ///
    /// # Errors
    /// When there are no roots to read.
    pub(crate) fn new(upstream: &Upstream, limits: &Limits) -> io::Result<Connections> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_millis(limits.connect_milliseconds)));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(PROBE));
        connector.enforce_http(false);
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .timer(TokioTimer::new());
        if !upstream.url.is_https() {
            return Ok(Connections::Plain(builder.build(connector)));
        }
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_only()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Connections::Tls(builder.build(connector)))
    }

    pub(crate) fn request(&self, request: Request<Upload>) -> ResponseFuture {
        match self {
            Connections::Plain(client) => client.request(request),
            Connections::Tls(client) => client.request(request),
        }
    }
}

/// An error with all its causes on one line.
pub(crate) fn explain(what: &str, error: &dyn Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some errors repeat their cause.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
