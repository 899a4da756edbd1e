//! One request from its arrival to the beginning of its response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::body::{BodyFailure, Download, Upload};
use super::client::{Connections, explain};
use super::headers;
use super::ledger::{Denied, Entry, Ledger, Opening, wait_turn};
use super::redact::Redactor;
use super::refusal::Refusal;
use super::target::Asked;
use super::usage::UsageReader;
use crate::protocol::{Limits, Outcome, Upstream};

/// The body of what the agent gets: our own words, or the upstream's as they come.
pub(crate) type Outgoing = Either<Full<Bytes>, Download>;

/// What all requests of one agent share.
pub(crate) struct Service {
    pub(crate) limits: Limits,
    pub(crate) upstream: Option<(Upstream, Connections)>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) turns: Arc<Semaphore>,
}

/// A request whose head was found good.
pub(crate) struct Arrival {
    pub(crate) asked: Asked,
    pub(crate) peer_port: u16,
    pub(crate) parts: Parts,
    pub(crate) body: Incoming,
    /// What follows `/v1` in the path, with the query.
    pub(crate) below: String,
    pub(crate) arrived: Instant,
}

/// How a request ends that gets no response from upstream: refused before it was on record, or
/// answered after it was.
pub(crate) enum Ending {
    /// To be put on record as a refusal.
    Refused(Refusal),
    /// Already on record.
    Recorded(Refusal),
}

impl Service {
    /// Enters the request in the record, forwards it, and returns the upstream's response.
    pub(crate) async fn forward(&self, arrival: Arrival) -> Result<Response<Outgoing>, Ending> {
        let Some((upstream, connections)) = &self.upstream else {
            return Err(Ending::Refused(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_upstream",
                "this sandbox has no model: its policy names no `models.upstream`",
            )));
        };
        let most = self.limits.request_bytes;
        if arrival.body.size_hint().lower() > most {
            return Err(Ending::Refused(body_refusal(BodyFailure::TooLarge)));
        }
        let patience = Duration::from_millis(self.limits.queue_milliseconds);
        let Some(turn) = wait_turn(&self.turns, patience).await else {
            return Err(Ending::Refused(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_requests_open",
                format!(
                    "{} model requests of this sandbox are open already; wait for one to end",
                    self.limits.requests
                ),
            )));
        };
        let pause = Duration::from_millis(self.limits.client_idle_milliseconds);
        let mut upload = Upload::new(arrival.body, most, pause);
        let model = upload
            .find_model(self.limits.peek_bytes.into())
            .await
            .map_err(|failure| Ending::Refused(body_refusal(failure)))?;
        let not_a_url = |_| {
            Ending::Refused(Refusal::new(
                StatusCode::URI_TOO_LONG,
                "path_not_normal",
                "the path is too long",
            ))
        };
        let uri = upstream.url.join(&arrival.below).map_err(not_a_url)?;
        let onward = headers::towards_upstream(&arrival.parts.headers, &arrival.below, upstream)
            .map_err(|_| Ending::Refused(internal()))?;

        let entry = self
            .ledger
            .open(Opening {
                via: arrival.asked.via,
                method: arrival.parts.method.as_str().to_owned(),
                host: arrival.asked.destination,
                path: arrival.asked.path,
                peer_port: arrival.peer_port,
                model,
                arrived: arrival.arrived,
            })
            .await
            .map_err(|denied| Ending::Recorded(denial(denied)))?;

        let mut request = Request::new(upload);
        *request.method_mut() = arrival.parts.method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = onward;
        self.exchange(upstream, connections, request, entry, turn)
            .await
            .map_err(Ending::Recorded)
    }

    async fn exchange(
        &self,
        upstream: &Upstream,
        connections: &Connections,
        request: Request<Upload>,
        mut entry: Entry,
        turn: OwnedSemaphorePermit,
    ) -> Result<Response<Outgoing>, Refusal> {
        let sent = request.body().sent();
        let is_head = request.method() == Method::HEAD;
        let patience = Duration::from_millis(self.limits.response_milliseconds);
        let answer = timeout(patience, connections.request(request)).await;
        entry.set_request_bytes(sent.bytes());
        let mut failed = |refusal: Refusal, outcome, reason: &str| {
            entry.close(outcome, Some(reason), Some(refusal.status.as_u16()));
            Err(refusal)
        };
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if let Some(failure) = sent.failure() {
                    return failed(
                        body_refusal(failure),
                        Outcome::ClientError,
                        &failure.to_string(),
                    );
                }
                let reason = explain("the model upstream could not be reached", &error);
                return failed(unreachable(), Outcome::UpstreamError, &reason);
            }
            Err(_) => {
                let reason = "the upstream did not begin its response in time";
                let refusal =
                    Refusal::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timed_out", reason);
                return failed(refusal, Outcome::UpstreamError, reason);
            }
        };
        if let Err(refusal) = check_response(response.status(), response.headers()) {
            let reason = refusal.reason.clone();
            return failed(refusal, Outcome::UpstreamError, &reason);
        }
        let (parts, body) = response.into_parts();
        let mut headers = headers::towards_agent(&parts.headers, upstream.key.as_ref());
        if !is_head {
            // The server sets it from what the body knows of itself.
            headers.remove(CONTENT_LENGTH);
        }
        entry.set_status(parts.status.as_u16());
        let download = Download::new(
            body,
            upstream
                .key
                .as_ref()
                .and_then(|key| Redactor::new(key.expose())),
            UsageReader::of(&parts.headers),
            Duration::from_millis(self.limits.upstream_idle_milliseconds),
            sent,
            entry,
            turn,
        );
        let mut response = Response::new(Either::Right(download));
        *response.status_mut() = parts.status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// What is not passed on: a change of protocol or place, and what cannot be searched for the key.
fn check_response(status: StatusCode, headers: &HeaderMap) -> Result<(), Refusal> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream_switched_protocols",
            "the model upstream answered with a change of protocol, which is not served",
        ));
    }
    if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream_redirected",
            format!(
                "the model upstream answered {} with another address, which is never followed; \
                 the policy's `models.upstream.url` must be the final one",
                status.as_u16()
            ),
        ));
    }
    if headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "upstream_compressed",
            "the model upstream compressed its response although it was asked not to; \
             switch that off at the upstream",
        ));
    }
    Ok(())
}

fn body_refusal(failure: BodyFailure) -> Refusal {
    let (status, code) = match failure {
        BodyFailure::BrokeOff => (StatusCode::BAD_REQUEST, "body_broke_off"),
        BodyFailure::Paused => (StatusCode::REQUEST_TIMEOUT, "body_paused"),
        BodyFailure::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
        BodyFailure::ModelRepeated => (StatusCode::BAD_REQUEST, "model_repeated"),
    };
    Refusal::new(status, code, failure.to_string())
}

fn denial(denied: Denied) -> Refusal {
    match denied {
        Denied::Refused(reason) => Refusal::new(StatusCode::FORBIDDEN, "not_allowed", reason),
        Denied::Unacknowledged => Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_recorded",
            "the request was not sent, because it could not be put on record in time; \
             whoever started this sandbox should look at its audit log and its disk",
        ),
    }
}

fn unreachable() -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "upstream_unreachable",
        "the model upstream could not be reached; the sandbox's audit log says why",
    )
}

fn internal() -> Refusal {
    Refusal::new(
        StatusCode::BAD_GATEWAY,
        "upstream_misconfigured",
        "the model upstream's address or key cannot be put in a request",
    )
}
