//! Where model requests go: the URL that the policy gives, and how an agent's path joins it.

use std::fmt;

use hyper::Uri;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use serde::{Deserialize, Serialize};

/// An `http` or `https` URL that stands for the agent's `http://inference.local/v1`.
///
/// What follows `/v1` in the agent's path is appended to this URL's path:
/// with `https://host/base/v1`, `/v1/chat/completions` becomes `/base/v1/chat/completions`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamUrl {
    scheme: Scheme,
    // INVARIANT: has a host, no user information.
    authority: Authority,
    // INVARIANT: empty, or starts with `/`, does not end with one, and has no dot segments.
    path: String,
}

impl UpstreamUrl {
    /// The longest URL, in bytes.
    pub const MOST_BYTES: usize = 2048;

    /// Whether the connection is protected by TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host, and the port where the URL gives one: what the `Host` header says upstream.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.authority.as_str()
    }

    /// The host alone.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority.host()
    }

    /// The TCP port: the URL's, or that of its scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        let default = if self.is_https() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// The URL for `below`, which is what followed `/v1` in a checked path: empty or from its `/` on,
    /// with the query.
    ///
    /// # Errors
    /// [`UpstreamUrlError::Malformed`] when the two together are no URL, for instance because they
    /// are too long.
    pub fn join(&self, below: &str) -> Result<Uri, UpstreamUrlError> {
        let mut path = format!("{}{below}", self.path);
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        let path = PathAndQuery::try_from(path).map_err(|_| UpstreamUrlError::Malformed)?;
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| UpstreamUrlError::Malformed)
    }
}

impl TryFrom<String> for UpstreamUrl {
    type Error = UpstreamUrlError;

    fn try_from(text: String) -> Result<UpstreamUrl, UpstreamUrlError> {
        UpstreamUrl::try_from(text.as_str())
    }
}

impl TryFrom<&str> for UpstreamUrl {
    type Error = UpstreamUrlError;

    fn try_from(text: &str) -> Result<UpstreamUrl, UpstreamUrlError> {
        if text.len() > UpstreamUrl::MOST_BYTES {
            return Err(UpstreamUrlError::TooLong);
        }
        // `Uri` cuts a fragment off in silence.
        if text.contains('#') {
            return Err(UpstreamUrlError::Fragment);
        }
        let uri: Uri = text.parse().map_err(|_| UpstreamUrlError::Malformed)?;
        let parts = uri.into_parts();
        let scheme = parts.scheme.ok_or(UpstreamUrlError::Scheme)?;
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(UpstreamUrlError::Scheme);
        }
        let authority = parts.authority.ok_or(UpstreamUrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(UpstreamUrlError::UserInformation);
        }
        let port_is_right = match authority.as_str().rsplit_once(':') {
            // An IPv6 address without a port ends with its bracket.
            Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|p| p != 0),
            _ => true,
        };
        if authority.host().is_empty() || !port_is_right {
            return Err(UpstreamUrlError::Host);
        }
        let path_and_query = parts.path_and_query.ok_or(UpstreamUrlError::Malformed)?;
        if path_and_query.query().is_some() {
            return Err(UpstreamUrlError::Query);
        }
        let path = path_and_query.path().trim_end_matches('/');
        if path.contains("//")
            || path.contains(['%', '\\'])
            || path.split('/').any(|part| part == "." || part == "..")
        {
            return Err(UpstreamUrlError::Path);
        }
        Ok(UpstreamUrl {
            scheme,
            authority,
            path: path.to_owned(),
        })
    }
}

impl From<UpstreamUrl> for String {
    fn from(url: UpstreamUrl) -> String {
        url.to_string()
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}://{}{}",
            self.scheme, self.authority, self.path
        )
    }
}

impl fmt::Debug for UpstreamUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UpstreamUrl({self})")
    }
}

/// Why a text cannot be the upstream's URL. The text is not repeated: it may hold a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamUrlError {
    /// More than [`UpstreamUrl::MOST_BYTES`].
    #[error("the upstream URL is longer than {} bytes", UpstreamUrl::MOST_BYTES)]
    TooLong,
    /// No URL at all.
    #[error("the upstream URL is not one; write it like `https://api.openai.com/v1`")]
    Malformed,
    /// Neither `http` nor `https`.
    #[error("the upstream URL does not begin with `http://` or `https://`")]
    Scheme,
    /// No host, or a port that is not one.
    #[error("the upstream URL names no host, or a port outside 1 to 65535")]
    Host,
    /// `user:password@`.
    #[error("the upstream URL holds a user name or password; give the credential as the key")]
    UserInformation,
    /// `?…`.
    #[error("the upstream URL has a query (`?…`), which would be lost; remove it")]
    Query,
    /// `#…`.
    #[error("the upstream URL has a fragment (`#…`), which is never sent; remove it")]
    Fragment,
    /// Dot segments, doubled slashes, escapes.
    #[error("the upstream URL's path has `.`, `..`, `//`, `%` or `\\` in it; write it plainly")]
    Path,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_v1_is_appended_to_the_upstream_path() {
        for (url, below, joined) in [
            (
                "https://h/base/v1",
                "/chat/completions",
                "https://h/base/v1/chat/completions",
            ),
            (
                "https://h/base/v1/",
                "/models?limit=2",
                "https://h/base/v1/models?limit=2",
            ),
            (
                "http://127.0.0.1:8080",
                "/models",
                "http://127.0.0.1:8080/models",
            ),
            ("http://h:1/v1", "", "http://h:1/v1"),
            ("http://h", "", "http://h/"),
            ("http://[::1]:9/x", "/y", "http://[::1]:9/x/y"),
        ] {
            let url = UpstreamUrl::try_from(url).unwrap();
            assert_eq!(url.join(below).unwrap().to_string(), joined);
        }
    }

    #[test]
    fn a_wrong_upstream_url_says_what_is_wrong() {
        for (url, error) in [
            ("", UpstreamUrlError::Malformed),
            ("/v1", UpstreamUrlError::Scheme),
            ("host/v1", UpstreamUrlError::Malformed),
            ("ftp://h/", UpstreamUrlError::Scheme),
            ("http://u:p@h/", UpstreamUrlError::UserInformation),
            ("http://h/?a=b", UpstreamUrlError::Query),
            ("http://h/#f", UpstreamUrlError::Fragment),
            ("http://h/a/../b", UpstreamUrlError::Path),
            ("http://h/a//b", UpstreamUrlError::Path),
            ("http://h/%2e%2e/b", UpstreamUrlError::Path),
            ("http://h:0/", UpstreamUrlError::Host),
            ("http://h:99999/", UpstreamUrlError::Host),
        ] {
            assert_eq!(UpstreamUrl::try_from(url), Err(error), "{url}");
        }
        let long = format!("http://h/{}", "a".repeat(UpstreamUrl::MOST_BYTES));
        assert_eq!(
            UpstreamUrl::try_from(long.as_str()),
            Err(UpstreamUrlError::TooLong)
        );
    }
}
