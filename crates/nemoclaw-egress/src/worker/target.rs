//! What a request asks for: the one name that is served, and a path that means one thing only.

use hyper::header::{CONTENT_ENCODING, HOST, HeaderMap, UPGRADE};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use super::refusal::Refusal;
use crate::protocol::Via;

/// The name that stands for the model upstream.
pub(crate) const MODEL_HOST: &str = "inference.local";
/// The only port it is served at.
const MODEL_PORT: u16 = 80;
/// What the upstream URL stands for.
const MODEL_PATH: &str = "/v1";

/// How the bytes reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// At the model listener, on this port.
    Model { port: u16 },
    /// At the proxy listener.
    Proxy,
    /// Inside a tunnel that `CONNECT` opened.
    Tunnel,
}

/// A request that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Open a tunnel; the requests inside are judged one by one.
    Tunnel,
    /// Forward; the text is what follows `/v1`, with the query.
    Model { below: String },
}

/// How a request named its destination, as it stands, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) via: Via,
    pub(crate) destination: String,
    pub(crate) path: String,
}

impl Asked {
    pub(crate) fn of(entry: Entry, parts: &Parts) -> Asked {
        let in_uri = parts.uri.authority().map(|a| a.as_str().to_owned());
        let via = match entry {
            _ if parts.method == Method::CONNECT => Via::Tunnel,
            Entry::Tunnel => Via::Tunnel,
            _ if in_uri.is_some() => Via::Absolute,
            _ => Via::Origin,
        };
        let in_header = || {
            let host = parts.headers.get(HOST)?;
            Some(String::from_utf8_lossy(host.as_bytes()).into_owned())
        };
        // User information may be a credential: it is no part of the destination.
        let destination = in_uri.or_else(in_header).unwrap_or_default();
        let destination = match destination.rsplit_once('@') {
            Some((_, host)) => host.to_owned(),
            None => destination,
        };
        let path = if parts.method == Method::CONNECT {
            String::new()
        } else {
            parts.uri.path().to_owned()
        };
        Asked {
            via,
            destination,
            path,
        }
    }
}

/// Judges a request by its head alone.
pub(crate) fn check(entry: Entry, parts: &Parts) -> Result<Target, Refusal> {
    check_host_header(&parts.headers)?;
    if parts.method == Method::CONNECT {
        return check_connect(entry, parts);
    }
    check_name(entry, parts)?;
    check_method(&parts.method)?;
    if parts.headers.contains_key(UPGRADE) {
        return Err(bad(
            "upgrade_refused",
            "a change of protocol (`Upgrade`) is not served; send plain HTTP/1.1 requests",
        ));
    }
    if parts
        .headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "encoding_refused",
            "a compressed request body cannot be recorded; send it without `Content-Encoding`",
        ));
    }
    let below = check_path(parts.uri.path())?;
    let below = match parts.uri.query() {
        None => below.to_owned(),
        Some(query) if query.bytes().all(|byte| byte.is_ascii_graphic()) => {
            format!("{below}?{query}")
        }
        Some(_) => {
            return Err(bad(
                "path_not_normal",
                "the query holds a character that must be percent-encoded",
            ));
        }
    };
    Ok(Target::Model { below })
}

fn bad(code: &'static str, reason: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, reason)
}

fn check_host_header(headers: &HeaderMap) -> Result<(), Refusal> {
    // RFC 9112 §3.2: a request with more than one Host is answered with status 400.
    if headers.get_all(HOST).iter().count() > 1 {
        return Err(bad(
            "host_repeated",
            "the request has more than one `Host` header",
        ));
    }
    Ok(())
}

fn check_connect(entry: Entry, parts: &Parts) -> Result<Target, Refusal> {
    let named = parts.uri.authority().map_or("", |a| a.as_str());
    match entry {
        Entry::Proxy => {}
        Entry::Model { .. } | Entry::Tunnel => {
            return Err(Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "connect_refused",
                "`CONNECT` is served at the proxy's address only (see `HTTP_PROXY`)",
            ));
        }
    }
    match split_host(named) {
        Some((host, Some(MODEL_PORT))) if is_model_host(host) => Ok(Target::Tunnel),
        Some((host, _)) if is_model_host(host) => Err(not_plain_http()),
        _ => Err(not_allowed(named)),
    }
}

fn check_name(entry: Entry, parts: &Parts) -> Result<(), Refusal> {
    let in_header = match parts.headers.get(HOST) {
        None => None,
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| bad("host_malformed", "the `Host` header is not a host name"))?,
        ),
    };
    let named = match (parts.uri.authority(), in_header) {
        (None, None) => {
            return Err(bad(
                "host_missing",
                "the request has no `Host` header; send HTTP/1.1 with `Host: inference.local`",
            ));
        }
        (None, Some(host)) => host,
        (Some(authority), header) => {
            if header.is_some_and(|header| !header.eq_ignore_ascii_case(authority.as_str())) {
                return Err(bad(
                    "host_contradicts",
                    "the `Host` header and the URL name different hosts",
                ));
            }
            authority.as_str()
        }
    };
    let Some((host, port)) = split_host(named) else {
        return Err(bad(
            "host_malformed",
            "the destination is not `host` or `host:port`",
        ));
    };
    let served = if is_model_host(host) {
        if parts.uri.scheme_str().unwrap_or("http") != "http"
            || port.unwrap_or(MODEL_PORT) != MODEL_PORT
        {
            return Err(not_plain_http());
        }
        true
    } else if let Entry::Model { port: ours } = entry {
        is_loopback(host) && port.unwrap_or(MODEL_PORT) == ours
    } else {
        false
    };
    if served {
        Ok(())
    } else {
        Err(not_allowed(named))
    }
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => Ok(()),
        _ => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_refused",
            "only GET, HEAD, POST, PUT, PATCH, DELETE and OPTIONS are served",
        )),
    }
}

/// What follows `/v1`, when the path can be read in one way only: no dot segments, no empty segments
/// but the last, and no escape of a character that would make one (`.`, `/`, `\`, `%`, controls).
fn check_path(path: &str) -> Result<&str, Refusal> {
    let Some(below) = path
        .strip_prefix(MODEL_PATH)
        .filter(|below| below.is_empty() || below.starts_with('/'))
    else {
        return Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "path_not_served",
            "only paths beneath `/v1` are served at `inference.local`",
        ));
    };
    let not_normal = |why: &str| Err(bad("path_not_normal", why));
    let mut segments = below.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return not_normal("the path has an empty segment (`//`)");
        }
        // `..;x` is `..` to servers that know path parameters.
        let name = segment.split(';').next().unwrap_or_default();
        if name == "." || name == ".." {
            return not_normal("the path has a `.` or `..` segment");
        }
    }
    let mut bytes = below.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match (bytes.next().and_then(hex), bytes.next().and_then(hex)) {
                (Some(high), Some(low)) => {
                    let meant = high * 16 + low;
                    if meant < 0x20 || meant == 0x7f || b"./\\%".contains(&meant) {
                        return not_normal(
                            "the path has an escaped `.`, `/`, `\\`, `%` or control character",
                        );
                    }
                }
                _ => return not_normal("the path has a `%` that begins no escape"),
            },
            // RFC 3986 §3.3: unreserved, sub-delims, `:`, `@`, and the separator.
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {}
            _ if b"-._~!$&'()*+,;=:@/".contains(&byte) => {}
            _ => return not_normal("the path holds a character that must be percent-encoded"),
        }
    }
    Ok(below)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// `host` and `port` of `host`, `host:port`, `[v6]` or `[v6]:port`; nothing with user information.
fn split_host(named: &str) -> Option<(&str, Option<u16>)> {
    if named.is_empty() || named.contains('@') {
        return None;
    }
    let (host, port) = if let Some(rest) = named.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        match after {
            "" => (host, None),
            _ => (host, Some(after.strip_prefix(':')?)),
        }
    } else {
        match named.split_once(':') {
            None => (named, None),
            Some((host, port)) => (host, Some(port)),
        }
    };
    match port {
        None => Some((host, None)),
        Some(port) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        Some(_) => None,
    }
}

fn is_model_host(host: &str) -> bool {
    host.eq_ignore_ascii_case(MODEL_HOST)
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn not_plain_http() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "destination_not_allowed",
        "`inference.local` is served over plain HTTP at port 80 only; use `http://inference.local/v1`",
    )
}

fn not_allowed(named: &str) -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "destination_not_allowed",
        format!(
            "`{}` is not reachable from this sandbox: the policy allows no destination but the \
             models at `http://inference.local/v1`",
            super::ledger::shown(named, 255)
        ),
    )
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(method: &str, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(entry: Entry, method: &str, uri: &str, hosts: &[&str]) -> &'static str {
        match check(entry, &parts(method, uri, hosts)) {
            Ok(_) => "served",
            Err(refusal) => refusal.code,
        }
    }

    const MODEL: Entry = Entry::Model { port: 8123 };

    #[test]
    fn only_the_one_name_is_served() {
        for (entry, host, expected) in [
            (MODEL, "inference.local", "served"),
            (MODEL, "Inference.LOCAL:80", "served"),
            (MODEL, "127.0.0.1:8123", "served"),
            (MODEL, "localhost:8123", "served"),
            (MODEL, "[::1]:8123", "served"),
            (MODEL, "127.0.0.1", "destination_not_allowed"),
            (MODEL, "127.0.0.1:8124", "destination_not_allowed"),
            (MODEL, "inference.local:8123", "destination_not_allowed"),
            (MODEL, "inference.local.", "destination_not_allowed"),
            (MODEL, "xinference.local", "destination_not_allowed"),
            (
                MODEL,
                "inference.local.evil.example",
                "destination_not_allowed",
            ),
            (MODEL, "10.0.0.1:8123", "destination_not_allowed"),
            (MODEL, "inference.local:", "host_malformed"),
            (MODEL, "inference.local:+80", "host_malformed"),
            (MODEL, "inference.local:80:80", "host_malformed"),
            (MODEL, "u@inference.local", "host_malformed"),
            (MODEL, "[::1", "host_malformed"),
            (MODEL, "", "host_malformed"),
            (Entry::Proxy, "localhost:8123", "destination_not_allowed"),
            (Entry::Tunnel, "inference.local", "served"),
            (Entry::Tunnel, "example.com", "destination_not_allowed"),
        ] {
            assert_eq!(
                code(entry, "GET", "/v1/models", &[host]),
                expected,
                "{host}"
            );
        }
        assert_eq!(code(MODEL, "GET", "/v1/models", &[]), "host_missing");
        let twice = ["inference.local", "inference.local"];
        assert_eq!(code(MODEL, "GET", "/v1/models", &twice), "host_repeated");
    }

    #[test]
    fn a_whole_url_is_served_when_it_names_the_models() {
        for (uri, host, expected) in [
            (
                "http://inference.local/v1/models",
                "inference.local",
                "served",
            ),
            (
                "http://inference.local:80/v1/models",
                "inference.local:80",
                "served",
            ),
            (
                "http://inference.local/v1/models",
                "example.com",
                "host_contradicts",
            ),
            (
                "https://inference.local/v1/models",
                "inference.local",
                "destination_not_allowed",
            ),
            (
                "http://inference.local:81/v1",
                "inference.local:81",
                "destination_not_allowed",
            ),
            (
                "http://example.com/v1/models",
                "example.com",
                "destination_not_allowed",
            ),
            (
                "http://example.com/v1/models",
                "inference.local",
                "host_contradicts",
            ),
        ] {
            assert_eq!(
                code(Entry::Proxy, "GET", uri, &[host]),
                expected,
                "{uri} {host}"
            );
        }
        assert_eq!(
            code(Entry::Proxy, "GET", "http://inference.local/v1/models", &[]),
            "served"
        );
        assert_eq!(
            code(
                Entry::Proxy,
                "GET",
                "http://u:p@inference.local/v1/models",
                &[]
            ),
            "host_malformed"
        );
    }

    #[test]
    fn a_tunnel_opens_to_the_models_port_80_and_from_the_proxy_only() {
        for (entry, named, expected) in [
            (Entry::Proxy, "inference.local:80", "served"),
            (
                Entry::Proxy,
                "inference.local:443",
                "destination_not_allowed",
            ),
            (Entry::Proxy, "example.com:80", "destination_not_allowed"),
            (Entry::Proxy, "127.0.0.1:80", "destination_not_allowed"),
            (MODEL, "inference.local:80", "connect_refused"),
            (Entry::Tunnel, "inference.local:80", "connect_refused"),
        ] {
            assert_eq!(code(entry, "CONNECT", named, &[named]), expected, "{named}");
        }
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_refused() {
        for (path, expected) in [
            ("/v1", "served"),
            ("/v1/", "served"),
            ("/v1/models/", "served"),
            ("/v1/models/a:b@c", "served"),
            ("/v1/files?purpose=a/../b", "served"),
            ("/v1/models/caf%C3%A9", "served"),
            ("/v1/...", "served"),
            ("/", "path_not_served"),
            ("/v2/models", "path_not_served"),
            ("/v1x", "path_not_served"),
            ("/V1/models", "path_not_served"),
            ("//v1/models", "path_not_served"),
            ("/v1/../admin", "path_not_normal"),
            ("/v1/..", "path_not_normal"),
            ("/v1/./models", "path_not_normal"),
            ("/v1//models", "path_not_normal"),
            ("/v1/..;/admin", "path_not_normal"),
            ("/v1/%2e%2e/admin", "path_not_normal"),
            ("/v1/%2E./admin", "path_not_normal"),
            ("/v1/a%2Fb", "path_not_normal"),
            ("/v1/a%5cb", "path_not_normal"),
            ("/v1/%252e", "path_not_normal"),
            ("/v1/a%00", "path_not_normal"),
            ("/v1/a%0d%0aX:y", "path_not_normal"),
            ("/v1/a%zz", "path_not_normal"),
            ("/v1/a%2", "path_not_normal"),
        ] {
            assert_eq!(
                code(MODEL, "GET", path, &["inference.local"]),
                expected,
                "{path}"
            );
        }
    }

    #[test]
    fn methods_and_upgrades_beyond_plain_requests_are_refused() {
        for method in ["TRACE", "PROPFIND", "X"] {
            assert_eq!(
                code(MODEL, method, "/v1/models", &["inference.local"]),
                "method_refused"
            );
        }
        let mut request = parts("GET", "/v1/models", &["inference.local"]);
        request
            .headers
            .insert(UPGRADE, "websocket".parse().unwrap());
        assert_eq!(check(MODEL, &request).unwrap_err().code, "upgrade_refused");
        let mut request = parts("POST", "/v1/models", &["inference.local"]);
        request
            .headers
            .insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(check(MODEL, &request).unwrap_err().code, "encoding_refused");
    }

    #[test]
    fn the_record_keeps_no_credential_of_a_url() {
        let asked = Asked::of(
            Entry::Proxy,
            &parts("GET", "http://u:p@example.com:81/a?token=x", &[]),
        );
        assert_eq!(
            asked,
            Asked {
                via: Via::Absolute,
                destination: "example.com:81".to_owned(),
                path: "/a".to_owned(),
            }
        );
    }
}
