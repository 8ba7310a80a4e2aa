//! A plain HTTP client that does what a timestamp authority needs: one POST, one answer. Tokens are signed, so
//! authorities serve them over plain HTTP as a rule.

use crate::timestamp::LARGEST_RESPONSE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Where to post to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    /// As in the Host header.
    host: String,
    /// For the connection: name without brackets, and port.
    name: String,
    port: u16,
    path: String,
}

impl Url {
    fn parse(url: &str) -> Result<Url, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url}: only http:// is supported"))?;
        if !url.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("{url}: a URL of printable ASCII is needed"));
        }
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let bracketed = host.starts_with('[');
        let (name, port) = match host.rfind(':') {
            Some(colon) if !bracketed || host[..colon].ends_with(']') => (&host[..colon], Some(&host[colon + 1..])),
            _ => (host, None),
        };
        let port = match port {
            Some(port) => port.parse().map_err(|_| format!("{url}: {port} is not a port"))?,
            None => 80,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty() || name.contains('@') {
            return Err(format!("{url}: a host name is needed"));
        }
        let path = path.split('#').next().unwrap_or("/").to_owned();
        Ok(Url { host: host.to_owned(), name: name.to_owned(), port, path })
    }
}

/// How long one attempt may take to connect, and to wait for bytes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Posts a timestamp request to the servers in turn, each `attempts` times, until one answers.
///
/// # Errors
/// What each server said, when none answers.
pub fn http_transport(urls: Vec<String>, attempts: u32) -> impl Fn(&[u8]) -> Result<Vec<u8>, String> {
    move |request| {
        let mut failures = Vec::new();
        for attempt in 0..attempts.max(1) {
            for url in &urls {
                match post(url, "application/timestamp-query", request) {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failures.push(format!("{url}: {failure}")),
                }
            }
            if attempt + 1 < attempts {
                std::thread::sleep(Duration::from_millis(200 << attempt.min(5)));
            }
        }
        if failures.is_empty() {
            failures.push("no server is given".to_owned());
        }
        Err(failures.join("; "))
    }
}

fn failed(what: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

fn post(url: &str, kind: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    let url = Url::parse(url)?;
    let addresses = (url.name.as_str(), url.port).to_socket_addrs().map_err(failed("no such host"))?;
    let mut stream = Err("the host has no address".to_owned());
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|e| format!("cannot connect: {e}"));
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("cannot set a time limit"))?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed("cannot set a time limit"))?;
    let head = format!(
        "POST {} HTTP/1.0\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        url.path,
        url.host,
        body.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).map_err(failed("cannot send"))?;
    read_answer(&mut BufReader::new(stream))
}

/// Reads a response of HTTP/1.0 or 1.1: a length, or everything until the end.
fn read_answer(reader: &mut impl BufRead) -> Result<Vec<u8>, String> {
    const LONGEST_HEAD: u64 = 64 << 10;
    let mut head = Read::take(&mut *reader, LONGEST_HEAD);
    let mut line = |what: &str| -> Result<String, String> {
        let mut text = Vec::new();
        head.read_until(b'\n', &mut text).map_err(|e| format!("{what}: {e}"))?;
        if text.last() != Some(&b'\n') {
            return Err(format!("{what}: the answer ends early"));
        }
        Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
    };
    let status = line("status line")?;
    let code = status.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned();
    if !status.starts_with("HTTP/1.") || code != "200" {
        return Err(format!("the server answers {code:?}, not 200"));
    }
    let mut length = None;
    let mut chunked = false;
    loop {
        let header = line("header")?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or((&header, ""));
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse::<usize>().ok(),
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    if chunked {
        return Err("the server sends chunks to a client of HTTP/1.0".to_owned());
    }
    let most = length.unwrap_or(LARGEST_RESPONSE).min(LARGEST_RESPONSE + 1);
    let mut body = Vec::new();
    Read::take(reader, most as u64 + 1).read_to_end(&mut body).map_err(|e| format!("body: {e}"))?;
    match length {
        Some(length) if body.len() < length => Err("the answer ends early".to_owned()),
        Some(length) => {
            body.truncate(length);
            Ok(body)
        }
        None => Ok(body),
    }
    .and_then(|body| if body.len() > LARGEST_RESPONSE { Err("the answer is too large".to_owned()) } else { Ok(body) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("http://ts.example.test:8080/a/b?c=d#e").unwrap();
        assert_eq!((url.name.as_str(), url.port, url.path.as_str()), ("ts.example.test", 8080, "/a/b?c=d"));
        let url = Url::parse("http://[::1]:81").unwrap();
        assert_eq!((url.name.as_str(), url.port, url.path.as_str()), ("::1", 81, "/"));
        assert_eq!(Url::parse("http://[::1]/").unwrap().port, 80);
        for bad in ["https://x/", "http://", "http://x:y/", "http://x/ y", "http://a@b/", "http://x\r\nA: b/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers() {
        let read = |text: &str| read_answer(&mut text.as_bytes());
        assert_eq!(read("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabcd").unwrap(), b"abc");
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nabcd").unwrap(), b"abcd");
        for bad in [
            "",
            "HTTP/1.0 500 no\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "SMTP\r\n",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let endless = format!("HTTP/1.0 200 OK\r\n{}", "X: y\r\n".repeat(20_000));
        assert!(read(&endless).is_err());
        let large = format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(LARGEST_RESPONSE + 5));
        assert!(read(&large).is_err());
    }
}
