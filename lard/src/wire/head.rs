//! Heads: of a request as it is written, of an answer as it is read.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::{ParserConfig, Status};
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use hyper::{Method, Response, StatusCode, Uri};
use openlambda_api::headers::{LOAD_METRICS, PACKAGES};

use super::framing::{Chunked, Framing};
use super::invalid;
use crate::message::{Length, line};

/// Headers of an answer.
const MOST_HEADERS: usize = 100;

/// A request as it goes out, but for its body.
pub struct Outgoing<'a> {
    /// The verb.
    pub method: &'a Method,
    /// Path and query.
    pub uri: &'a Uri,
    /// Without any that tells where the body ends.
    pub headers: &'a HeaderMap,
    /// More of them.
    pub added: &'a [(HeaderName, HeaderValue)],
    /// Whether the agent shall say `100 Continue` when it takes the call.
    pub asks: bool,
}

impl Outgoing<'_> {
    /// Writes it.
    pub fn write(&self, buffer: &mut Vec<u8>, host: &HeaderValue, length: Length) {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        for part in [self.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
            buffer.extend_from_slice(part.as_bytes());
        }
        let mut has_host = false;
        for (name, value) in self.headers {
            has_host |= name == HOST;
            line(buffer, name, value.as_bytes());
        }
        if !has_host {
            line(buffer, &HOST, host.as_bytes());
        }
        self.added.iter().for_each(|(name, value)| line(buffer, name, value.as_bytes()));
        if self.asks {
            line(buffer, &EXPECT, b"100-continue");
        }
        length.write(buffer);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// What the head of an answer says.
pub struct Head {
    /// Status and headers.
    pub response: Response<()>,
    /// What is not for the client.
    pub said: Said,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the connection stays open.
    pub keep: bool,
}

/// What an agent says to lard with an answer.
#[derive(Debug, Default)]
pub struct Said {
    /// How loaded it is.
    pub load: Option<Bytes>,
    /// Which packages the handler has.
    pub packages: Option<Bytes>,
}

impl Said {
    /// Where what a header says belongs, if it is one for lard.
    fn place(&mut self, name: &[u8]) -> Option<&mut Option<Bytes>> {
        if name.eq_ignore_ascii_case(LOAD_METRICS.as_bytes()) {
            Some(&mut self.load)
        } else if name.eq_ignore_ascii_case(PACKAGES.as_bytes()) {
            Some(&mut self.packages)
        } else {
            None
        }
    }
}

/// Whether there are headers that tell where the answer ends: each is looked up only then.
#[derive(Default)]
struct Marks {
    length: bool,
    coding: bool,
    connection: bool,
}

/// Where a header stands in what was read.
pub struct Place {
    name: Range<usize>,
    value: Range<usize>,
}

/// The whole of a `100 Continue` as agents write it.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Takes a `100 Continue` off what was read: most calls begin with it, and it is not worth to be read like any head.
pub fn is_continue(read: &mut BytesMut) -> bool {
    let is = read.starts_with(CONTINUE);
    if is {
        read.advance(CONTINUE.len());
    }
    is
}

/// Takes a head off what was read, if it is there as a whole. `places` is kept for its memory.
pub fn parse(read: &mut BytesMut, places: &mut Vec<Place>) -> io::Result<Option<Head>> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut slots = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut found = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut found, read, &mut slots);
    let length = match parsed.map_err(|error| invalid(format!("its head cannot be read: {error}")))? {
        Status::Complete(length) => length,
        Status::Partial => return Ok(None),
    };
    let status = StatusCode::from_u16(found.code.unwrap_or_default());
    let status = status.map_err(|error| invalid(error.to_string()))?;
    let persistent = found.version == Some(1);
    let begin = read.as_ptr() as usize;
    let place = |bytes: &[u8]| {
        let start = bytes.as_ptr() as usize - begin;
        start..start + bytes.len()
    };
    places.clear();
    places.extend(
        found.headers.iter().map(|h| Place { name: place(h.name.as_bytes()), value: place(h.value) }),
    );
    let mut response = Response::new(());
    *response.status_mut() = status;
    if places.is_empty() {
        read.advance(length);
    }
    let (said, marks) = match places.is_empty() {
        true => Default::default(),
        false => fill(response.headers_mut(), &read.split_to(length).freeze(), places)?,
    };
    let framing = framing(status, response.headers(), persistent, &marks)?;
    let keep = keeps(response.headers(), persistent, &marks);
    Ok(Some(Head { response, said, framing, keep }))
}

fn fill(headers: &mut HeaderMap, head: &Bytes, places: &[Place]) -> io::Result<(Said, Marks)> {
    let (mut said, mut marks) = (Said::default(), Marks::default());
    // With room for the request's id.
    headers.reserve(places.len() + 1);
    for Place { name, value } in places {
        let (name, value) = (&head[name.clone()], head.slice(value.clone()));
        if let Some(place) = said.place(name) {
            *place = Some(value);
            continue;
        }
        let value = HeaderValue::from_maybe_shared(value).map_err(|error| invalid(error.to_string()))?;
        let name = HeaderName::from_bytes(name).map_err(|error| invalid(error.to_string()))?;
        marks.length |= name == CONTENT_LENGTH;
        marks.coding |= name == TRANSFER_ENCODING;
        marks.connection |= name == CONNECTION;
        headers.append(name, value);
    }
    Ok((said, marks))
}

/// RFC 9112, 6.3. What could be read in two ways is not read at all.
fn framing(status: StatusCode, headers: &HeaderMap, persistent: bool, marks: &Marks) -> io::Result<Framing> {
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Length(0));
    }
    if !marks.length && !marks.coding {
        return Ok(Framing::Close { ended: false });
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if let Some(coding) = headers.get(TRANSFER_ENCODING) {
        let is_only = headers.get_all(TRANSFER_ENCODING).iter().count() == 1;
        if length.is_some() || !persistent || !is_only || !coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        {
            return Err(invalid(format!("where its body ends is not clear: Transfer-Encoding {coding:?}")));
        }
        return Ok(Framing::Chunked(Chunked::Size));
    }
    let Some(length) = length else { return Ok(Framing::Close { ended: false }) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|text| text.parse().ok()).filter(|_| lengths.all(|other| other == length));
    let number = number
        .ok_or_else(|| invalid(format!("where its body ends is not clear: Content-Length {length:?}")))?;
    Ok(Framing::Length(number))
}

fn keeps(headers: &HeaderMap, persistent: bool, marks: &Marks) -> bool {
    if !marks.connection {
        return persistent;
    }
    let has = |wanted: &str| {
        let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(wanted))
    };
    !has("close") && (persistent || has("keep-alive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Option<(Head, usize)>> {
        let mut read = BytesMut::from(text);
        Ok(parse(&mut read, &mut Vec::new())?.map(|head| (head, read.len())))
    }

    #[test]
    fn a_request_is_written_with_what_it_lacks() {
        let headers: HeaderMap =
            [(HeaderName::from_static("x-a"), HeaderValue::from_static("1"))].into_iter().collect();
        let uri = Uri::from_static("/run/f?x=1");
        let added = [(HeaderName::from_static("x-b"), HeaderValue::from_static("2"))];
        let request =
            Outgoing { method: &Method::POST, uri: &uri, headers: &headers, added: &added, asks: true };
        let mut buffer = Vec::new();
        request.write(&mut buffer, &HeaderValue::from_static("agent:1"), Length::Exact(3));
        let expected = "POST /run/f?x=1 HTTP/1.1\r\nx-a: 1\r\nhost: agent:1\r\nx-b: 2\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    }

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nab";
        for length in 0..text.len() - 2 {
            assert!(read(&text[..length]).unwrap().is_none(), "{length}");
        }
        let (head, left) = read(text).unwrap().unwrap();
        assert_eq!((head.framing, head.keep, left), (Framing::Length(2), true, 2));
        assert_eq!(head.response.headers()["x-a"], "b");
        let (head, _) = read("HTTP/1.1 200 OK\r\nX-A:\r\nX-B: \t \r\nX-C:c \r\n\r\n").unwrap().unwrap();
        let headers = head.response.headers();
        assert_eq!(
            (&headers["x-a"], &headers["x-b"], &headers["x-c"]),
            (&"".parse().unwrap(), &"".parse().unwrap(), &"c".parse().unwrap())
        );
        assert_eq!(read("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1").unwrap().unwrap().1, 8);
        let mut both = BytesMut::from("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1");
        assert!(is_continue(&mut both) && !is_continue(&mut both));
        assert_eq!(both, "HTTP/1.1");
    }

    #[test]
    fn what_is_for_lard_is_kept_from_the_client() {
        let text = "HTTP/1.1 204 No Content\r\nEndpoint-Load-Metrics: TEXT cpu_utilization=0.5\r\nx-packages: 000000000000002a\r\nx-a: 1\r\n\r\n";
        let (head, _) = read(text).unwrap().unwrap();
        assert_eq!(head.said.load.unwrap(), "TEXT cpu_utilization=0.5");
        let packages = head.said.packages.unwrap();
        assert_eq!(openlambda_api::packages::parse(std::str::from_utf8(&packages).unwrap()), Some(42));
        assert_eq!(head.response.headers().len(), 1);
    }

    #[test]
    fn where_bodies_end() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", Framing::Chunked(Chunked::Size), true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::Close { ended: false }, true),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 304 Not Modified\r\nConnection: x, Close\r\n\r\n", Framing::Length(0), false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", Framing::Length(3), true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Framing::Length(3), false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n",
                Framing::Length(3),
                true,
            ),
        ];
        for (text, framing, keep) in cases {
            let (head, _) = read(text).unwrap().unwrap();
            assert_eq!((head.framing, head.keep), (framing, keep), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let too_many = "X-A: b\r\n".repeat(MOST_HEADERS + 1);
        for headers in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: -3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Content-Length : 3\r\n",
            "X-A: a\r\n b\r\n",
            &too_many,
        ] {
            let Err(error) = read(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n")) else { panic!("{headers}") };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{headers}");
        }
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(read("GET / HTTP/1.1\r\n\r\n").is_err());
        assert!(read("HTTP/1.1 42 No\r\n\r\n").is_err());
    }
}
