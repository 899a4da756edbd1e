//! A scripted, OpenAI-compatible model endpoint on loopback.
//!
//! It plays the part of a model that uses its tools: the first answer of a turn calls `exec`, the
//! second calls `read`, the third is text that quotes what both returned. Which answer is due is
//! read from the conversation itself, so a repeated request gets the same answer. Whatever the
//! client does wrong (a wrong key, no tools offered) is refused and remembered.
//!
//! Speaks just enough HTTP/1.1 for this: one request a connection, bodies by length or in chunks.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The largest request head that is read, in bytes.
const HEAD_LIMIT: u64 = 64 * 1024;
/// The largest request body that is read, in bytes; a turn of OpenClaw sends about 33 KB.
const BODY_LIMIT: u64 = 8 * 1024 * 1024;
/// More requests than this are no turn, but a client that goes in circles.
const COMPLETIONS_LIMIT: u32 = 12;
/// How long one read or write on a connection may take.
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// What the scripted model asks for and expects.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// The key that requests must carry as a bearer token.
    pub(crate) key: String,
    /// The shell command handed to the agent's `exec` tool.
    pub(crate) command: String,
    /// The path handed to the agent's `read` tool.
    pub(crate) path: String,
}

/// What was seen while the endpoint served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Completion requests that were answered.
    pub(crate) completions: u32,
    /// Size of the largest completion request, in bytes.
    pub(crate) largest_request: usize,
    /// The most tools that one request offered.
    pub(crate) tools_offered: usize,
    /// What the tools returned, in order, as the last request carried it.
    pub(crate) tool_results: Vec<String>,
    /// What the client did wrong, a sentence each.
    pub(crate) faults: Vec<String>,
}

/// A running endpoint; dropping it stops it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    address: SocketAddr,
    observed: Arc<Mutex<Observed>>,
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Starts to serve `script` on a free port of 127.0.0.1.
    pub(crate) fn start(script: Script) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("could not listen on 127.0.0.1 for the scripted model endpoint")?;
        let address = listener.local_addr()?;
        let observed = Arc::new(Mutex::new(Observed::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let server = std::thread::spawn({
            let observed = Arc::clone(&observed);
            let stop = Arc::clone(&stop);
            move || serve(&listener, &script, &observed, &stop)
        });
        Ok(Self {
            address,
            observed,
            stop,
            server: Some(server),
        })
    }

    /// The port that the endpoint listens on.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What was seen up to now.
    pub(crate) fn observed(&self) -> Observed {
        self.observed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // The accept call returns for this connection and then sees the flag.
        if TcpStream::connect(self.address).is_ok()
            && let Some(server) = self.server.take()
        {
            // A panic of the server thread has been printed by that thread already.
            let _ = server.join();
        }
    }
}

fn serve(
    listener: &TcpListener,
    script: &Script,
    observed: &Arc<Mutex<Observed>>,
    stop: &AtomicBool,
) {
    for stream in listener.incoming() {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let script = script.clone();
        let observed = Arc::clone(observed);
        std::thread::spawn(move || {
            if let Err(error) = answer(&stream, &script, &observed) {
                note(
                    &observed,
                    format!("a connection to the model endpoint failed: {error}"),
                );
            }
        });
    }
}

fn answer(stream: &TcpStream, script: &Script, observed: &Mutex<Observed>) -> io::Result<()> {
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    let Some(request) = read_request(&mut BufReader::new(stream))? else {
        return Ok(());
    };
    match reply(&request, script, observed) {
        Reply::Json(status, body) => write_json(stream, status, &body),
        Reply::Stream(events) => write_events(stream, &events),
    }
}

#[derive(Debug)]
struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
    body: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Reply {
    Json(u16, Value),
    Stream(Vec<Value>),
}

fn reply(request: &Request, script: &Script, observed: &Mutex<Observed>) -> Reply {
    let expected = format!("Bearer {}", script.key);
    if request.authorization.as_deref() != Some(expected.as_str()) {
        note(
            observed,
            format!(
                "`{} {}` did not carry the real key",
                request.method, request.path
            ),
        );
        return refuse(401, "wrong key");
    }
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/models") => Reply::Json(
            200,
            json!({"object": "list", "data": [{"id": "local", "object": "model"}]}),
        ),
        ("POST", "/v1/chat/completions") => complete(&request.body, script, observed),
        (method, path) => {
            note(observed, format!("`{method} {path}` is not served"));
            refuse(404, "no such resource")
        }
    }
}

fn refuse(status: u16, message: &str) -> Reply {
    Reply::Json(
        status,
        json!({"error": {"message": message, "type": "invalid_request_error"}}),
    )
}

fn complete(body: &[u8], script: &Script, observed: &Mutex<Observed>) -> Reply {
    let Ok(request) = serde_json::from_slice::<Value>(body) else {
        note(observed, "a completion request was not JSON".to_owned());
        return refuse(400, "the body is not JSON");
    };
    let tools: Vec<&str> = array(&request, "tools")
        .iter()
        .filter_map(|tool| tool.pointer("/function/name").and_then(Value::as_str))
        .collect();
    for needed in ["exec", "read"] {
        if !tools.contains(&needed) {
            note(
                observed,
                format!("a completion request did not offer the tool `{needed}`"),
            );
            return refuse(400, "a needed tool was not offered");
        }
    }
    let results = tool_results(array(&request, "messages"));
    {
        let mut seen = observed.lock().unwrap_or_else(PoisonError::into_inner);
        seen.completions += 1;
        seen.largest_request = seen.largest_request.max(body.len());
        seen.tools_offered = seen.tools_offered.max(tools.len());
        seen.tool_results.clone_from(&results);
        if seen.completions > COMPLETIONS_LIMIT {
            seen.faults.push(format!(
                "more than {COMPLETIONS_LIMIT} completion requests came, with {} tool results in the last",
                results.len()
            ));
            return refuse(400, "the conversation goes in circles");
        }
    }
    let message = next_message(script, &results);
    if request.get("stream").and_then(Value::as_bool) == Some(true) {
        Reply::Stream(stream_events(&message))
    } else {
        let finish_reason = finish_reason(&message);
        Reply::Json(
            200,
            json!({
                "id": "scripted", "object": "chat.completion", "created": 0, "model": "local",
                "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
                "usage": usage(),
            }),
        )
    }
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value
        .get(name)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The texts of the tool messages of the turn that goes on: those after the last answer that called
/// no tool. (User messages mark nothing: OpenClaw ends every request with one of its own.)
fn tool_results(messages: &[Value]) -> Vec<String> {
    let ends_a_turn = |message: &Value| {
        message.get("role").and_then(Value::as_str) == Some("assistant")
            && array(message, "tool_calls").is_empty()
    };
    let start = messages
        .iter()
        .rposition(ends_a_turn)
        .map_or(0, |at| at + 1);
    messages[start..]
        .iter()
        .filter(|message| message.get("role").and_then(Value::as_str) == Some("tool"))
        .map(|message| match message.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").and_then(Value::as_str))
                .collect(),
            _ => String::new(),
        })
        .collect()
}

fn next_message(script: &Script, results: &[String]) -> Value {
    match results {
        [] => tool_call("call_1", "exec", &json!({"command": script.command})),
        [_] => tool_call("call_2", "read", &json!({"path": script.path})),
        [exec, read, ..] => json!({
            "role": "assistant",
            "content": format!("exec returned: {exec}\nread returned: {read}"),
        }),
    }
}

fn tool_call(id: &str, name: &str, arguments: &Value) -> Value {
    json!({
        "role": "assistant",
        "content": null,
        "tool_calls": [{
            "index": 0, "id": id, "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()},
        }],
    })
}

fn finish_reason(message: &Value) -> &'static str {
    if message.get("tool_calls").is_some() {
        "tool_calls"
    } else {
        "stop"
    }
}

fn usage() -> Value {
    json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
}

fn stream_events(message: &Value) -> Vec<Value> {
    let event = |delta: Value, finish: Option<&str>, usage: Value| {
        json!({
            "id": "scripted", "object": "chat.completion.chunk", "created": 0, "model": "local",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
            "usage": usage,
        })
    };
    vec![
        event(message.clone(), None, Value::Null),
        event(json!({}), Some(finish_reason(message)), usage()),
    ]
}

fn note(observed: &Mutex<Observed>, fault: String) {
    observed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .faults
        .push(fault);
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_owned())
}

/// Reads one request; `None` when the peer closed without sending anything.
fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = stream.by_ref().take(HEAD_LIMIT);
    let Some(first) = read_line(&mut head)? else {
        return Ok(None);
    };
    let mut words = first.split_ascii_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(invalid("the request line has no method and path"));
    };
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut authorization = None;
    let mut length = 0;
    let mut chunked = false;
    loop {
        let line = read_line(&mut head)?.ok_or_else(|| invalid("the request head was cut off"))?;
        let Some((name, value)) = line.split_once(':') else {
            if line.is_empty() {
                break;
            }
            return Err(invalid("a header line has no colon"));
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "content-length" => {
                length = value
                    .parse::<u64>()
                    .map_err(|_| invalid("the content length is not a number"))?;
            }
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let body = if chunked {
        read_chunks(stream)?
    } else {
        read_exactly(stream, length, BODY_LIMIT)?
    };
    Ok(Some(Request {
        method,
        path,
        authorization,
        body,
    }))
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(&mut stream.by_ref().take(HEAD_LIMIT))?
            .ok_or_else(|| invalid("the body was cut off"))?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length =
            u64::from_str_radix(digits, 16).map_err(|_| invalid("a chunk has no length"))?;
        let room = BODY_LIMIT.saturating_sub(body.len() as u64);
        body.extend(read_exactly(stream, length, room)?);
        // The line end after the chunk; after the last one, the empty trailer.
        read_line(&mut stream.by_ref().take(HEAD_LIMIT))?;
        if length == 0 {
            return Ok(body);
        }
    }
}

fn read_exactly(stream: &mut impl BufRead, length: u64, limit: u64) -> io::Result<Vec<u8>> {
    if length > limit {
        return Err(invalid("the body is too large"));
    }
    let mut body = Vec::new();
    stream.by_ref().take(length).read_to_end(&mut body)?;
    if body.len() as u64 == length {
        Ok(body)
    } else {
        Err(invalid("the body was cut off"))
    }
}

fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    if !line.ends_with('\n') {
        return Err(invalid("a line was cut off or is too long"));
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn write_json(mut stream: &TcpStream, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    write!(
        stream,
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn write_events(mut stream: &TcpStream, events: &[Value]) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
          transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
    )?;
    let lines = events.iter().map(Value::to_string);
    for line in lines.chain(["[DONE]".to_owned()]) {
        let event = format!("data: {line}\n\n");
        write!(stream, "{:x}\r\n{event}\r\n", event.len())?;
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        Script {
            key: "the-key".to_owned(),
            command: "echo hello".to_owned(),
            path: "file.txt".to_owned(),
        }
    }

    fn ask(port: u16, head: &str, body: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        write!(
            stream,
            "{head}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    const POST: &str =
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nAuthorization: Bearer the-key";

    fn conversation(results: &[&str], stream: bool) -> String {
        let mut messages = vec![json!({"role": "user", "content": "do it"})];
        for result in results {
            messages
                .push(json!({"role": "assistant", "content": null, "tool_calls": [{"id": "c"}]}));
            messages.push(json!({"role": "tool", "tool_call_id": "c", "content": result}));
        }
        messages.push(json!({"role": "user", "content": [{"type": "text", "text": "context"}]}));
        let tools: Vec<Value> = ["exec", "read"]
            .iter()
            .map(|name| json!({"type": "function", "function": {"name": name}}))
            .collect();
        json!({"messages": messages, "tools": tools, "stream": stream}).to_string()
    }

    #[test]
    fn the_script_calls_exec_then_read_and_then_quotes_what_they_returned() {
        let endpoint = Endpoint::start(script()).unwrap();
        let first = ask(endpoint.port(), POST, &conversation(&[], false));
        assert!(first.contains(r#""name":"exec""#), "{first}");
        let second = ask(endpoint.port(), POST, &conversation(&["one"], false));
        assert!(second.contains(r#""name":"read""#), "{second}");
        let third = ask(endpoint.port(), POST, &conversation(&["one", "two"], false));
        assert!(
            third.contains(r"exec returned: one\nread returned: two"),
            "{third}"
        );
        let observed = endpoint.observed();
        assert_eq!(observed.completions, 3);
        assert_eq!(observed.tool_results, ["one", "two"]);
        assert_eq!(observed.faults, Vec::<String>::new());
    }

    #[test]
    fn a_streamed_answer_ends_with_a_reason_and_done() {
        let endpoint = Endpoint::start(script()).unwrap();
        let answer = ask(endpoint.port(), POST, &conversation(&[], true));
        assert!(answer.contains("text/event-stream"), "{answer}");
        assert!(
            answer.contains(r#""finish_reason":"tool_calls""#),
            "{answer}"
        );
        assert!(
            answer.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"),
            "{answer}"
        );
    }

    #[test]
    fn a_wrong_key_and_missing_tools_are_refused_and_remembered() {
        let endpoint = Endpoint::start(script()).unwrap();
        let wrong = POST.replace("the-key", "placeholder");
        assert!(ask(endpoint.port(), &wrong, &conversation(&[], false)).contains(" 401 "));
        assert!(ask(endpoint.port(), POST, r#"{"messages":[]}"#).contains(" 400 "));
        let faults = endpoint.observed().faults;
        assert_eq!(
            faults,
            [
                "`POST /v1/chat/completions` did not carry the real key",
                "a completion request did not offer the tool `exec`"
            ]
        );
    }

    #[test]
    fn a_conversation_that_goes_in_circles_is_ended() {
        let endpoint = Endpoint::start(script()).unwrap();
        let answers: Vec<String> = (0..=COMPLETIONS_LIMIT)
            .map(|_| ask(endpoint.port(), POST, &conversation(&[], false)))
            .collect();
        assert!(
            answers
                .iter()
                .rev()
                .skip(1)
                .all(|answer| answer.contains(" 200 "))
        );
        assert!(answers.last().unwrap().contains(" 400 "));
    }

    #[test]
    fn a_body_in_chunks_is_put_together() {
        let head = "POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = format!("{head}3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
        let request = read_request(&mut text.as_bytes()).unwrap().unwrap();
        assert_eq!(request.body, b"abcde");
        assert!(read_request(&mut format!("{head}3\r\nab").as_bytes()).is_err());
        assert!(read_request(&mut format!("{head}fffffff\r\n").as_bytes()).is_err());
    }
}
