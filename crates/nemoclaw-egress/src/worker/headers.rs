//! Which headers cross: nothing that belongs to one connection, none of the agent's credentials, and
//! the real key only towards the upstream.

use hyper::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST,
    HeaderMap, HeaderName, HeaderValue, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};

use super::redact::is_distinct;
use crate::protocol::{Secret, Upstream};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");
const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Those of one connection: RFC 9110 §7.6.1, and what practice added.
const HOP_BY_HOP: [HeaderName; 10] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Credentials of the agent's, claims about where a request came from, and what is set anew.
const NOT_FORWARDED: [HeaderName; 15] = [
    HOST,
    CONTENT_LENGTH,
    EXPECT,
    ACCEPT_ENCODING,
    AUTHORIZATION,
    X_API_KEY,
    API_KEY,
    HeaderName::from_static("x-goog-api-key"),
    COOKIE,
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// What would make the agent's client remember or go somewhere else.
const NOT_RETURNED: [HeaderName; 5] = [
    LOCATION,
    SET_COOKIE,
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("strict-transport-security"),
    HeaderName::from_static("refresh"),
];

/// The headers of the request as it goes upstream. `below` is what follows `/v1` in its path.
pub(crate) fn towards_upstream(
    agent: &HeaderMap,
    below: &str,
    upstream: &Upstream,
) -> Result<HeaderMap, hyper::header::InvalidHeaderValue> {
    let places = key_places(agent, below);
    let mut headers = agent.clone();
    remove_hop_by_hop(&mut headers);
    for name in &NOT_FORWARDED {
        headers.remove(name);
    }
    headers.insert(HOST, HeaderValue::from_str(upstream.url.authority())?);
    // What is compressed cannot be searched for the key, nor for what the request cost.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(key) = &upstream.key {
        for place in places {
            headers.insert(place.clone(), key_value(&place, key)?);
        }
    }
    Ok(headers)
}

/// The headers of the response as the agent sees it.
pub(crate) fn towards_agent(upstream: &HeaderMap, key: Option<&Secret>) -> HeaderMap {
    let mut headers = upstream.clone();
    remove_hop_by_hop(&mut headers);
    for name in &NOT_RETURNED {
        headers.remove(name);
    }
    if let Some(key) = key.filter(|key| is_distinct(key.expose())) {
        let key = key.expose().as_bytes();
        let telling: Vec<HeaderName> = headers
            .iter()
            .filter(|(_, value)| value.as_bytes().windows(key.len()).any(|part| part == key))
            .map(|(name, _)| name.clone())
            .collect();
        for name in telling {
            headers.remove(name);
        }
    }
    headers
}

/// The key goes where the agent put its stand-in, because that is the dialect it speaks; an agent
/// that put none gets the dialect of the request: Anthropic's or everyone's.
fn key_places(agent: &HeaderMap, below: &str) -> Vec<HeaderName> {
    let used: Vec<HeaderName> = [AUTHORIZATION, X_API_KEY, API_KEY]
        .into_iter()
        .filter(|name| agent.contains_key(name))
        .collect();
    if !used.is_empty() {
        return used;
    }
    let path = below.split('?').next().unwrap_or_default();
    let is_anthropic = agent.contains_key(ANTHROPIC_VERSION)
        || path == "/messages"
        || path.starts_with("/messages/");
    vec![if is_anthropic {
        X_API_KEY
    } else {
        AUTHORIZATION
    }]
}

fn key_value(
    place: &HeaderName,
    key: &Secret,
) -> Result<HeaderValue, hyper::header::InvalidHeaderValue> {
    let mut value = if *place == AUTHORIZATION {
        HeaderValue::from_str(&zeroize::Zeroizing::new(format!("Bearer {}", key.expose())))?
    } else {
        HeaderValue::from_str(key.expose())?
    };
    value.set_sensitive(true);
    Ok(value)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in nominated.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamUrl;

    fn upstream(key: Option<&str>) -> Upstream {
        Upstream {
            url: UpstreamUrl::try_from("https://models.example:8443/v1").unwrap(),
            key: key.map(|key| Secret::try_from(key.to_owned()).unwrap()),
        }
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_key_takes_the_place_of_the_agents_own() {
        for (agent, below, expected) in [
            (
                vec![("authorization", "Bearer mine")],
                "/messages",
                ("authorization", "Bearer real"),
            ),
            (
                vec![("x-api-key", "mine")],
                "/chat/completions",
                ("x-api-key", "real"),
            ),
            (vec![("api-key", "mine")], "/models", ("api-key", "real")),
            (
                vec![],
                "/chat/completions",
                ("authorization", "Bearer real"),
            ),
            (vec![], "/messages?beta=true", ("x-api-key", "real")),
            (
                vec![("anthropic-version", "2023-06-01")],
                "/models",
                ("x-api-key", "real"),
            ),
        ] {
            let sent = towards_upstream(&headers(&agent), below, &upstream(Some("real"))).unwrap();
            assert_eq!(sent.get(expected.0).unwrap(), expected.1);
            assert!(sent.get(expected.0).unwrap().is_sensitive());
            assert!(
                sent.values()
                    .all(|value| !value.as_bytes().ends_with(b"mine"))
            );
        }
    }

    #[test]
    fn without_a_key_no_credential_is_sent() {
        let agent = headers(&[
            ("authorization", "Bearer mine"),
            ("authorization", "Basic mine"),
            ("x-api-key", "mine"),
            ("api-key", "mine"),
            ("x-goog-api-key", "mine"),
            ("cookie", "a=mine"),
            ("proxy-authorization", "Basic mine"),
        ]);
        let sent = towards_upstream(&agent, "/models", &upstream(None)).unwrap();
        assert_eq!(
            sent,
            headers(&[
                ("host", "models.example:8443"),
                ("accept-encoding", "identity")
            ])
        );
    }

    #[test]
    fn headers_of_one_connection_stay_on_it() {
        let agent = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("x-stainless-os", "Linux"),
        ]);
        let sent = towards_upstream(&agent, "/models", &upstream(None)).unwrap();
        assert_eq!(
            sent,
            headers(&[
                ("host", "models.example:8443"),
                ("accept-encoding", "identity"),
                ("x-stainless-os", "Linux"),
            ])
        );
    }

    #[test]
    fn a_response_header_that_tells_the_key_is_dropped() {
        let key = Secret::try_from("sk-real-0123456789".to_owned()).unwrap();
        let answer = headers(&[
            ("x-debug", "auth=sk-real-0123456789;"),
            ("set-cookie", "a=b"),
            ("location", "https://elsewhere.example/"),
            ("x-request-id", "7"),
        ]);
        assert_eq!(
            towards_agent(&answer, Some(&key)),
            headers(&[("x-request-id", "7")])
        );
    }
}
