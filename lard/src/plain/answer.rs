//! Answers as they are written: a head, and a body by its length or in chunks (RFC 9112, 6 and 7.1).

use std::io::Write as _;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use hyper::http::response::Parts;
use hyper::{StatusCode, Version};

use crate::message::{Length, line};

/// How the end of an answer is told whose body is so long, if that is known.
pub fn length(status: StatusCode, exact: Option<u64>) -> Length {
    match exact {
        _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Length::None,
        Some(length) => Length::Exact(length),
        None => Length::Chunked,
    }
}

/// Writes a head.
pub fn head(buffer: &mut Vec<u8>, head: &Parts, length: Length, close: bool) {
    debug_assert_eq!(head.version, Version::HTTP_11);
    for part in ["HTTP/1.1 ", head.status.as_str(), " ", head.status.canonical_reason().unwrap_or("")] {
        buffer.extend_from_slice(part.as_bytes());
    }
    buffer.extend_from_slice(b"\r\n");
    let mut has_date = false;
    for (name, value) in &head.headers {
        has_date |= name == DATE;
        // The length of what was not sent may be told.
        let is_own = name == CONNECTION || name == TRANSFER_ENCODING;
        if !is_own && (name != CONTENT_LENGTH || head.status == StatusCode::NOT_MODIFIED) {
            line(buffer, name, value.as_bytes());
        }
    }
    if !has_date {
        line(buffer, &DATE, date().as_bytes());
    }
    if close {
        line(buffer, &CONNECTION, b"close");
    }
    length.write(buffer);
    buffer.extend_from_slice(b"\r\n");
}

#[expect(clippy::disallowed_methods, reason = "it is told, and decides nothing")]
fn date() -> String {
    httpdate::fmt_http_date(SystemTime::now())
}

/// Writes what stands before a part of a body, which is not empty.
pub fn before(buffer: &mut Vec<u8>, length: Length, part: &Bytes) {
    if length == Length::Chunked {
        // A Vec takes all that it is given.
        let _ = write!(buffer, "{:x}\r\n", part.len());
    }
}

/// Writes what stands after a part.
pub fn after(buffer: &mut Vec<u8>, length: Length) {
    if length == Length::Chunked {
        buffer.extend_from_slice(b"\r\n");
    }
}

/// Writes what ends a body.
pub fn end(buffer: &mut Vec<u8>, length: Length) {
    if length == Length::Chunked {
        buffer.extend_from_slice(b"0\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    fn written(response: Response<()>, exact: Option<u64>, close: bool) -> String {
        let (parts, ()) = response.into_parts();
        let mut buffer = Vec::new();
        head(&mut buffer, &parts, super::length(parts.status, exact), close);
        String::from_utf8(buffer).unwrap()
    }

    #[test]
    fn a_head_tells_where_the_body_ends() {
        let answer = |status: u16| {
            let builder = Response::builder().status(status).header("date", "d").header("x-a", "b");
            builder.header("content-length", "7").body(()).unwrap()
        };
        let cases = [
            (200, Some(3), "200 OK\r\ndate: d\r\nx-a: b\r\ncontent-length: 3\r\n\r\n"),
            (404, Some(0), "404 Not Found\r\ndate: d\r\nx-a: b\r\ncontent-length: 0\r\n\r\n"),
            (200, None, "200 OK\r\ndate: d\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n"),
            (204, Some(0), "204 No Content\r\ndate: d\r\nx-a: b\r\n\r\n"),
            (304, Some(0), "304 Not Modified\r\ndate: d\r\nx-a: b\r\ncontent-length: 7\r\n\r\n"),
            (299, Some(1), "299 \r\ndate: d\r\nx-a: b\r\ncontent-length: 1\r\n\r\n"),
        ];
        for (status, exact, expected) in cases {
            assert_eq!(written(answer(status), exact, false), format!("HTTP/1.1 {expected}"));
        }
    }

    #[test]
    fn one_that_closes_says_so_and_one_without_a_date_gets_one() {
        let answer = Response::builder().header("connection", "x").body(()).unwrap();
        let text = written(answer, Some(0), true);
        assert!(text.contains("\r\nconnection: close\r\n") && !text.contains(": x"), "{text}");
        let date = text.lines().find_map(|line| line.strip_prefix("date: ")).unwrap();
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
    }

    #[test]
    fn chunks_have_their_sizes() {
        let mut buffer = Vec::new();
        before(&mut buffer, Length::Chunked, &Bytes::from_static(&[0; 26]));
        buffer.extend_from_slice(b"...");
        after(&mut buffer, Length::Chunked);
        end(&mut buffer, Length::Chunked);
        assert_eq!(buffer, b"1a\r\n...\r\n0\r\n\r\n");
        for length in [Length::Exact(3), Length::None] {
            buffer.clear();
            before(&mut buffer, length, &Bytes::from_static(b"abc"));
            after(&mut buffer, length);
            end(&mut buffer, length);
            assert!(buffer.is_empty());
        }
    }
}
