//! Which requests are plain, and what is in them.
//!
//! Plain is what can be read in one way only: a GET or POST of HTTP/1.1 that calls a handler, whose body has a length or
//! none, and that wants nothing of its connection but that it stays open. All else, what is malformed first of all, is
//! for hyper to read.

use std::mem::MaybeUninit;

use bytes::Bytes;
use httparse::{ParserConfig, Status};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Uri};
use openlambda_api::HandlerName;

use crate::route::{Route, route};

/// The longest plain request, with its body.
pub const LONGEST: usize = 64 << 10;
/// Its headers, at most.
const MOST_HEADERS: usize = 64;

/// What bytes are the beginning of.
pub enum Seen {
    /// A plain request, and what comes after it.
    Whole(Box<Plain>, Bytes),
    /// It may become one.
    Part,
    /// Something else.
    Other,
}

/// A plain request.
pub struct Plain {
    /// Which handler it calls.
    pub handler: HandlerName,
    /// Its head.
    pub head: Parts,
    /// Its body.
    pub body: Bytes,
}

/// Reads a request.
pub fn read(bytes: &Bytes) -> Seen {
    let mut slots = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut found = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut found, bytes, &mut slots);
    let head = match parsed {
        Ok(Status::Complete(head)) => head,
        Ok(Status::Partial) if bytes.len() < LONGEST => return Seen::Part,
        Ok(Status::Partial) | Err(_) => return Seen::Other,
    };
    let Some((plain, length)) = plain(bytes, &found) else { return Seen::Other };
    let Some(end) = head.checked_add(length).filter(|end| *end <= LONGEST) else { return Seen::Other };
    if bytes.len() < end {
        return Seen::Part;
    }
    let body = bytes.slice(head..end);
    Seen::Whole(Box::new(Plain { body, ..plain }), bytes.slice(end..))
}

/// A request but for its body, and how long that is.
fn plain(bytes: &Bytes, found: &httparse::Request<'_, '_>) -> Option<(Plain, usize)> {
    let method = match found.method? {
        "GET" => Method::GET,
        "POST" => Method::POST,
        _ => return None,
    };
    let path = found.path.filter(|path| found.version == Some(1) && path.starts_with('/'))?;
    let uri = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).ok()?;
    let Route::Call(handler) = route(uri.path()) else { return None };
    let (headers, length) = headers(bytes, found.headers)?;
    let (mut head, ()) = Request::new(()).into_parts();
    (head.method, head.uri, head.headers) = (method, uri, headers);
    Some((Plain { handler, head, body: Bytes::new() }, length))
}

/// Headers as they stand, and the length that they tell. None if there is one that makes a request another than plain.
fn headers(bytes: &Bytes, found: &[httparse::Header<'_>]) -> Option<(HeaderMap, usize)> {
    // With room for what is added on the way to an agent.
    let (mut headers, mut length) = (HeaderMap::with_capacity(found.len() + 4), None);
    for header in found {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(header.value)).ok()?;
        if name == CONTENT_LENGTH {
            let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            if length.replace(digits.parse().ok()?).is_some() {
                return None;
            }
        } else if name == CONNECTION {
            if !value.as_bytes().eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if [TRANSFER_ENCODING, EXPECT, UPGRADE, TE, TRAILER].contains(&name) {
            return None;
        }
        headers.append(name, value);
    }
    Some((headers, length.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, Full};
    use hyper::Response;
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const POST: &str = "POST /run/f?x=1 HTTP/1.1\r\nHost: front\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc";

    fn whole(text: &[u8]) -> Option<(Plain, Bytes)> {
        match read(&Bytes::copy_from_slice(text)) {
            Seen::Whole(plain, rest) => Some((*plain, rest)),
            Seen::Part | Seen::Other => None,
        }
    }

    #[test]
    fn a_plain_request_is_read_when_it_is_whole() {
        for length in 0..POST.len() {
            let read = read(&Bytes::copy_from_slice(&POST.as_bytes()[..length]));
            assert!(matches!(read, Seen::Part), "{length}");
        }
        let (plain, rest) = whole(format!("{POST}GET").as_bytes()).unwrap();
        assert_eq!((plain.handler.as_str(), &plain.body[..], &rest[..]), ("f", &b"abc"[..], &b"GET"[..]));
        assert_eq!(
            (&plain.head.method, plain.head.uri.to_string()),
            (&Method::POST, "/run/f?x=1".to_owned())
        );
        assert!(plain.head.headers["host"] == "front" && plain.head.headers["x-a"] == "b");
        let (plain, rest) = whole(b"GET /runLambda/g/p HTTP/1.1\r\nConnection: Keep-Alive\r\n\r\n").unwrap();
        assert_eq!((plain.handler.as_str(), plain.body.len(), rest.len()), ("g", 0, 0));
    }

    #[test]
    fn what_is_not_plain_is_left_to_hyper() {
        let long = format!("X-A: {}\r\n", "a".repeat(LONGEST));
        let many = "X-A: b\r\n".repeat(MOST_HEADERS + 1);
        let head = |headers: &str| format!("POST /run/f HTTP/1.1\r\n{headers}\r\n");
        let cases = [
            "PUT /run/f HTTP/1.1\r\n\r\n".to_owned(),
            "HEAD /run/f HTTP/1.1\r\n\r\n".to_owned(),
            "GET /run/f HTTP/1.0\r\n\r\n".to_owned(),
            "GET /status HTTP/1.1\r\n\r\n".to_owned(),
            "GET /run/.. HTTP/1.1\r\n\r\n".to_owned(),
            "GET /registry/f HTTP/1.1\r\n\r\n".to_owned(),
            "GET http://front/run/f HTTP/1.1\r\n\r\n".to_owned(),
            "GET * HTTP/1.1\r\n\r\n".to_owned(),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            head("Transfer-Encoding: chunked\r\n"),
            head("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            head("Content-Length: 3\r\nContent-Length: 3\r\n"),
            head("Content-Length: 3, 3\r\n"),
            head("Content-Length: +3\r\n"),
            head("Content-Length: \r\n"),
            head("Content-Length: 99999999999999999999\r\n"),
            head(&format!("Content-Length: {LONGEST}\r\n")),
            head("Content-Length : 3\r\n"),
            head("X-A: a\r\n b\r\n"),
            head("Connection: close\r\n"),
            head("Connection: keep-alive, x-a\r\n"),
            head("Connection: Upgrade\r\nUpgrade: websocket\r\n"),
            head("Expect: 100-continue\r\n"),
            head("TE: trailers\r\n"),
            head(&many),
            head(&long),
        ];
        for text in cases {
            assert!(matches!(read(&Bytes::from(text.clone())), Seen::Other), "{text}");
        }
    }

    type Heard = (Method, String, Vec<(String, Vec<u8>)>, Vec<u8>);

    fn heard(head: &Parts, body: &[u8]) -> Heard {
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        (head.method.clone(), head.uri.to_string(), headers.collect(), body.to_vec())
    }

    /// What hyper makes of the first request in some bytes.
    async fn of_hyper(text: &[u8]) -> Option<Heard> {
        let (mut client, server) = duplex(1 << 16);
        let first = Mutex::new(None);
        let service = service_fn(async |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                first.lock().get_or_insert(heard(&head, &body.to_bytes()));
            }
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
        });
        client.write_all(text).await.unwrap();
        client.shutdown().await.unwrap();
        let mut http = http1::Builder::new();
        let served = http.half_close(true).serve_connection(TokioIo::new(server), service);
        let mut answers = Vec::new();
        // An error is an answer too: that it is no request.
        let _ = tokio::join!(served, client.read_to_end(&mut answers));
        first.into_inner()
    }

    #[tokio::test]
    async fn hyper_reads_in_each_plain_request_the_same_however_it_is_mangled() {
        let mut plain = 0;
        let bytes =
            [0, b'\t', b'\r', b'\n', b' ', b'"', b',', b'/', b'0', b'4', b':', b'?', b'z', 0x7f, 0xff];
        for at in 0..POST.len() {
            for byte in bytes {
                let mut replaced = POST.as_bytes().to_vec();
                replaced[at] = byte;
                let mut inserted = POST.as_bytes().to_vec();
                inserted.insert(at, byte);
                for text in [replaced, inserted] {
                    let Some((seen, _)) = whole(&text) else { continue };
                    plain += 1;
                    let ours = heard(&seen.head, &seen.body);
                    assert_eq!(of_hyper(&text).await, Some(ours), "{}", String::from_utf8_lossy(&text));
                }
            }
        }
        assert!(plain > 500, "{plain} were plain");
    }
}
