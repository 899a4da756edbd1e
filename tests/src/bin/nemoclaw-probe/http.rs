//! A small HTTP/1.1 client, for the model socket and the proxy.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use serde_json::json;

use crate::sockets::dial;
use crate::{Failure, Outcome, unable};

pub(crate) fn attempt(name: &str, target: &str) -> Option<Outcome> {
    Some(match name {
        // Relative to OPENAI_BASE_URL, as its clients do.
        "get-model" => base().and_then(|base| get(&format!("{base}{target}"))),
        "post-model" => base().and_then(|base| post(&format!("{base}/chat/completions"), target)),
        "get" => get(target),
        // The whole URL, to the proxy.
        "get-through-proxy" => through_proxy(target),
        // CONNECT, and the request inside.
        "get-through-tunnel" => through_tunnel(target),
        _ => return None,
    })
}

fn variable(name: &str) -> Result<String, Failure> {
    std::env::var(name).map_err(|_| unable(format!("`{name}` is not set")))
}

fn base() -> Result<String, Failure> {
    variable("OPENAI_BASE_URL")
}

/// Host with port, and path.
fn parts(url: &str) -> Result<(String, String), Failure> {
    let rest = url
        .strip_prefix("http://")
        .ok_or_else(|| unable("no http URL"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    let host = if host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    Ok((host, path.to_owned()))
}

fn headers(host: &str) -> String {
    let host = host.strip_suffix(":80").unwrap_or(host);
    let key = std::env::var("OPENAI_API_KEY").unwrap_or_default();
    format!("Host: {host}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n")
}

fn get(url: &str) -> Outcome {
    let (host, path) = parts(url)?;
    let mut stream = dial(&host)?;
    write!(stream, "GET {path} HTTP/1.1\r\n{}\r\n", headers(&host))?;
    answer(&stream)
}

/// A chat request for `model`; a model whose name begins with `stream` is asked to stream.
fn post(url: &str, model: &str) -> Outcome {
    let (host, path) = parts(url)?;
    let body = json!({
        "model": model,
        "messages": [{"role": "user", "content": "hello"}],
        "stream": model.starts_with("stream"),
    })
    .to_string();
    let mut stream = dial(&host)?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        headers(&host),
        body.len(),
    )?;
    answer(&stream)
}

fn proxy() -> Result<TcpStream, Failure> {
    let (proxy, _) = parts(&variable("HTTP_PROXY")?)?;
    dial(&proxy)
}

fn through_proxy(url: &str) -> Outcome {
    let (host, _) = parts(url)?;
    let mut stream = proxy()?;
    write!(stream, "GET {url} HTTP/1.1\r\n{}\r\n", headers(&host))?;
    answer(&stream)
}

fn through_tunnel(url: &str) -> Outcome {
    let (host, path) = parts(url)?;
    let mut stream = proxy()?;
    write!(stream, "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (status, _) = head(&mut reader)?;
    if status != 200 {
        return Ok(json!({"tunnel": status}));
    }
    write!(stream, "GET {path} HTTP/1.1\r\n{}\r\n", headers(&host))?;
    let mut seen = answer(&stream)?;
    seen["tunnel"] = status.into();
    Ok(seen)
}

/// Status and headers, by name in small letters.
fn head(reader: &mut impl BufRead) -> Result<(u16, Vec<(String, String)>), Failure> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| unable(format!("no status in `{}`", line.trim())))?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok((status, headers));
        }
        if let Some((name, value)) = line.trim().split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// The whole answer, with the time at which each part of the body came.
fn answer(stream: &TcpStream) -> Outcome {
    let start = Instant::now();
    let mut reader = BufReader::new(stream);
    let (status, headers) = head(&mut reader)?;
    let mut body = Vec::new();
    let mut times = Vec::new();
    let mut part = vec![0; 16 * 1024];
    loop {
        let length = reader.read(&mut part)?;
        if length == 0 {
            break;
        }
        body.extend_from_slice(part.get(..length).unwrap_or_default());
        times.push(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
    Ok(json!({
        "status": status,
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
        "milliseconds": times,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_port_means_80() {
        assert_eq!(
            parts("http://inference.local/v1").unwrap(),
            ("inference.local:80".to_owned(), "/v1".to_owned())
        );
        assert_eq!(
            parts("http://h:81").unwrap(),
            ("h:81".to_owned(), "/".to_owned())
        );
        assert!(parts("https://h/").is_err());
    }

    #[test]
    fn an_answer_begins_with_its_status() {
        let mut text = &b"HTTP/1.1 403 Forbidden\r\nContent-Type: a\r\n\r\nbody"[..];
        let (status, headers) = head(&mut text).unwrap();
        assert_eq!((status, headers.len()), (403, 1));
        assert_eq!(text, b"body");
        assert!(matches!(
            head(&mut &b"nonsense"[..]),
            Err(Failure::Unable(_))
        ));
    }

    #[test]
    fn value_of_a_missing_variable_is_told() {
        assert!(matches!(
            variable("NEMOCLAW_PROBE_NO_SUCH"),
            Err(Failure::Unable(_))
        ));
    }
}
