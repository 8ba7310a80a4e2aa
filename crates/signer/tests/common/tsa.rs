//! A timestamp authority: `openssl ts` behind a loopback HTTP server.

use super::pki::Entity;
use super::tools::raw;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes what `openssl ts` needs, and `tsaroot.pem`.
pub fn set_up(folder: &Path, tsa: &Entity, root: &Entity) {
    let write = |name: &str, content: &str| std::fs::write(folder.join(name), content).unwrap();
    write("tsaroot.pem", &root.pem());
    write("tsa.pem", &tsa.pem());
    write("tsa.key", &tsa.key.pem());
    write(
        "tsa.cnf",
        "[tsa]\ndefault_tsa=t\n[t]\nserial=tsaserial\ncrypto_device=builtin\nsigner_cert=tsa.pem\n\
             certs=tsaroot.pem\nsigner_key=tsa.key\nsigner_digest=sha256\ndefault_policy=1.2.3.4.1\n\
             digests=sha1,sha256,sha384,sha512\naccuracy=secs:1\nordering=no\ntsa_name=yes\n\
             ess_cert_id_chain=no\ness_cert_id_alg=sha256\n",
    );
}

/// What `openssl ts` answers.
pub fn reply(folder: &Path, query: &[u8]) -> Vec<u8> {
    std::fs::write(folder.join("query"), query).unwrap();
    let output = raw(
        "openssl",
        &["ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "response"],
        Some(folder),
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(folder.join("response")).unwrap()
}

/// Serves POSTs on a loopback port; `answer` gets the number of the request and its body, and gives the whole answer.
pub fn serve(answer: impl Fn(usize, Vec<u8>) -> Vec<u8> + Send + 'static) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/tsa", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let served = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let _ = stream.write_all(&answer(served.fetch_add(1, Ordering::SeqCst), body));
        }
    });
    (url, count)
}

/// An HTTP answer with this response.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/timestamp-reply\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
