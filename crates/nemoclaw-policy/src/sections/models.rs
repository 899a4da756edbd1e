//! `models`: where the agent's model requests go.

use serde::Serialize;

use crate::diagnostic::{Diagnostic, quote};
use crate::host::{Host, is_local_name, port_of};
use crate::path::SandboxPath;
use crate::reader::{NOT_YET, Reader};
use crate::yaml::Node;

/// Where the agent's model requests go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Models {
    /// The service that answers them; `None` when the agent has no model.
    pub upstream: Option<Upstream>,
}

/// A service that speaks a model API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Upstream {
    /// Its address: `http` or `https`, without credentials, query or fragment.
    pub url: String,
    /// Where its key is found; `None` when it needs none.
    pub key: Option<KeySource>,
}

/// Where a key is found, outside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum KeySource {
    /// In a variable of who starts the agent.
    Env {
        /// The variable's name.
        name: String,
    },
    /// In a file of the host.
    File {
        /// Its path, absolute or beginning with `~/`.
        path: String,
    },
}

impl Models {
    pub(crate) fn read(reader: &mut Reader<'_>, node: &Node, local_only: bool) -> Self {
        const LATER: [&str; 8] = [
            "providers",
            "catalogue",
            "catalog",
            "budgets",
            "default",
            "routes",
            "local",
            "fallback",
        ];
        let Some(fields) = reader.fields(node, "`models`", &["upstream"], &LATER) else {
            return Self::default();
        };
        let upstream = fields.get("upstream");
        Self {
            upstream: upstream.and_then(|node| Upstream::read(reader, node, local_only)),
        }
    }
}

impl Upstream {
    fn read(reader: &mut Reader<'_>, node: &Node, local_only: bool) -> Option<Self> {
        let fields = reader.fields(node, "`models.upstream`", &["url", "key"], &[])?;
        let key = fields
            .get("key")
            .and_then(|node| KeySource::read(reader, node));
        let Some(node) = fields.get("url") else {
            let hint = "write `url: \"https://…/v1\"`";
            reader.error_hint(node.span, "`models.upstream` has no `url`", hint);
            return None;
        };
        let url = reader.text(node, "`models.upstream.url`")?;
        match Parts::parse(url) {
            Ok(parts) => {
                if local_only && !parts.is_loopback() {
                    reader.error_hint(
                        node.span,
                        format!(
                            "`privacy.local_only` keeps model requests on this machine, and {} is elsewhere",
                            quote(parts.host)
                        ),
                        "name `localhost` or a loopback address, or set `local_only: false`",
                    );
                }
                if key.is_some() && !parts.encrypted && !parts.is_loopback() {
                    let message = "the key travels unencrypted to another machine";
                    let warning = Diagnostic::warning(Some(reader.place(node.span)), message);
                    reader.diagnostics.push(warning.hint("write `https://`"));
                }
            }
            Err(what) => reader.error_hint(
                node.span,
                format!("`models.upstream.url` {what}"),
                "write it as `https://host/v1` or `http://127.0.0.1:8080/v1`",
            ),
        }
        Some(Self {
            url: url.to_owned(),
            key,
        })
    }
}

impl KeySource {
    fn read(reader: &mut Reader<'_>, node: &Node) -> Option<Self> {
        let fields = reader.fields(
            node,
            "`models.upstream.key`",
            &["from", "name", "path"],
            &[],
        )?;
        let Some(from) = fields.get("from") else {
            let hint = "write `{from: env, name: NAME}` or `{from: file, path: /path}`";
            reader.error_hint(node.span, "`models.upstream.key` has no `from`", hint);
            return None;
        };
        let chosen = reader.choice(from, "`key.from`", &["env", "file"], &["command"])?;
        let (wanted, other) = if chosen == "env" {
            ("name", "path")
        } else {
            ("path", "name")
        };
        if let Some(extra) = fields.get(other) {
            let message = format!("`{other}` has no meaning beside `from: {chosen}`");
            reader.error_hint(extra.span, message, format!("write `{wanted}`"));
        }
        let Some(value) = fields.get(wanted) else {
            let message = format!("`from: {chosen}` needs `{wanted}`");
            reader.error(node.span, message);
            return None;
        };
        let text = reader.text(value, &format!("`key.{wanted}`"))?;
        if chosen == "env" {
            let good = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !good {
                let hint = "name the variable; the key itself does not belong into a policy";
                let message = "`key.name` is no name of a variable";
                reader.error_hint(value.span, message, hint);
                return None;
            }
            return Some(Self::Env {
                name: text.to_owned(),
            });
        }
        let rest = text.strip_prefix('~').unwrap_or(text);
        if SandboxPath::try_from(rest).is_err() || rest == "/" || text.contains(['*', '$']) {
            let message = format!("`key.path` {} is no file of the host", quote(text));
            reader.error_hint(value.span, message, "write `/path` or `~/path`");
            return None;
        }
        Some(Self::File {
            path: text.to_owned(),
        })
    }
}

/// What an address says, as far as the policy must know it.
struct Parts<'a> {
    encrypted: bool,
    host: &'a str,
    parsed: Host,
}

impl<'a> Parts<'a> {
    fn parse(url: &'a str) -> Result<Self, String> {
        let (encrypted, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("must begin with `http://` or `https://`".to_owned()),
        };
        if url.contains(|c: char| {
            c.is_whitespace() || c.is_control() || matches!(c, '\\' | '<' | '>' | '"')
        }) {
            return Err("holds a character that no address can".to_owned());
        }
        if rest.contains('?') {
            return Err("holds a query".to_owned());
        }
        if rest.contains('#') {
            return Err("holds a fragment".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(format!(
                "holds credentials; they belong into `key`, and a user name {NOT_YET}"
            ));
        }
        if path.split('/').any(|part| matches!(part, "." | "..")) || !path.is_ascii() {
            return Err("holds a path that is not normal".to_owned());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) if host.contains(':') => (
                    host,
                    port.strip_prefix(':')
                        .or(if port.is_empty() { None } else { Some("") }),
                ),
                _ => return Err("holds `[` without an address of IPv6 and `]`".to_owned()),
            },
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if let Some(port) = port {
            port_of(port)
                .map_err(|_| "holds a port that is no number from 1 to 65535".to_owned())?;
        }
        let parsed =
            Host::parse(host).map_err(|error| format!("names no host: {}", error.message))?;
        Ok(Self {
            encrypted,
            host,
            parsed,
        })
    }

    fn is_loopback(&self) -> bool {
        match &self.parsed {
            Host::Name(name) => name == "localhost" && is_local_name(name),
            Host::Address(address) => address.is_loopback(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_to_the_letter() {
        for good in [
            "https://api.example.com/v1",
            "http://127.0.0.1:8080/v1",
            "http://[::1]:80/",
            "https://a.example",
        ] {
            assert!(Parts::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ftp://a.example",
            "https://",
            "https://user:pw@a.example",
            "https://a.example/?x=1",
            "https://a.example/#x",
            "https://a.example:0",
            "https://a.example:x",
            "https://a b/",
            "https://[::1",
            "https://[::1]x",
            "https://a.example/../b",
            "HTTPS//x",
            "https://127.1/",
        ] {
            assert!(Parts::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        let loopback = |url| Parts::parse(url).unwrap().is_loopback();
        assert!(loopback("http://localhost:1/"));
        assert!(loopback("http://127.9.9.9/"));
        assert!(loopback("http://[::1]/"));
        assert!(loopback("http://[::ffff:127.0.0.1]/"));
        assert!(!loopback("http://localhost.example/"));
        assert!(!loopback("http://10.0.0.1/"));
    }
}
