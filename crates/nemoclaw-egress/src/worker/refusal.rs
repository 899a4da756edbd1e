//! What an agent is told when a request is turned away: an error object that OpenAI and Anthropic
//! clients both understand, with a reason that a person can act on.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// A request turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// A fixed word for programs.
    pub(crate) code: &'static str,
    /// A sentence for people.
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        reason: impl Into<String>,
    ) -> Refusal {
        Refusal {
            status,
            code,
            reason: reason.into(),
        }
    }

    /// The response for the agent.
    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let document = Document {
            kind: "error",
            error: Detail {
                message: &self.reason,
                kind: if self.status.is_server_error() {
                    "api_error"
                } else {
                    "invalid_request_error"
                },
                param: None,
                code: self.code,
            },
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// OpenAI reads `error`, Anthropic `type` and `error`.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}
