//! Where the body of an answer ends (RFC 9112, 6 and 7).

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::SizeHint;

use super::invalid;

/// The longest line of a chunked body that is not data: a size with its extensions, or a trailer.
const LONGEST_LINE: usize = 16 << 10;

/// How it ends, and how far it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// With a chunk of no length.
    Chunked(Chunked),
    /// With the connection.
    Close {
        /// Whether that has ended.
        ended: bool,
    },
}

/// What comes next in a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunked {
    /// The size of a chunk.
    Size,
    /// So much of a chunk.
    Data(u64),
    /// The end of its line.
    DataEnd,
    /// A trailer, or the end. So many bytes of trailers there were.
    Trailers(usize),
    /// Nothing.
    Ended,
}

impl Framing {
    /// Whether nothing more comes.
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunked::Ended) | Self::Close { ended: true })
    }

    /// How much more comes, if that was said.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Chunked(_) | Self::Close { .. } => SizeHint::default(),
        }
    }

    /// What there is of the body in what was read. None: it is over, or more must be read.
    pub fn take(&mut self, read: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match self {
            Self::Length(left) => Ok(data(left, read)),
            Self::Chunked(chunked) => chunked.take(read),
            Self::Close { .. } => Ok(data(&mut { u64::MAX }, read)),
        }
    }

    /// There is nothing more to be read.
    pub fn closed(&mut self) -> io::Result<()> {
        match self {
            Self::Close { ended } => {
                *ended = true;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed before its end"))
            }
        }
    }
}

/// At most `left` bytes.
fn data(left: &mut u64, read: &mut BytesMut) -> Option<Bytes> {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left -= count as u64;
    (count > 0).then(|| read.split_to(count).freeze())
}

impl Chunked {
    fn take(&mut self, read: &mut BytesMut) -> io::Result<Option<Bytes>> {
        loop {
            let next = match self {
                Self::Size => size(read)?,
                Self::Data(left) => {
                    let part = data(left, read);
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(part);
                }
                Self::DataEnd => line_end(read)?,
                Self::Trailers(seen) => trailer(*seen, read)?,
                Self::Ended => None,
            };
            match next {
                Some(next) => *self = next,
                None => return Ok(None),
            }
        }
    }
}

fn size(read: &mut BytesMut) -> io::Result<Option<Chunked>> {
    match httparse::parse_chunk_size(read) {
        Ok(httparse::Status::Complete((used, size))) => {
            read.advance(used);
            Ok(Some(if size == 0 { Chunked::Trailers(0) } else { Chunked::Data(size) }))
        }
        Ok(httparse::Status::Partial) if read.len() <= LONGEST_LINE => Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => Err(invalid("a chunk of its body has no size")),
    }
}

fn line_end(read: &mut BytesMut) -> io::Result<Option<Chunked>> {
    if read.len() < 2 {
        return Ok(None);
    }
    if read.split_to(2) != b"\r\n"[..] {
        return Err(invalid("a chunk of its body is longer than its size"));
    }
    Ok(Some(Chunked::Size))
}

/// Trailers are read and dropped: no client has asked for them.
fn trailer(seen: usize, read: &mut BytesMut) -> io::Result<Option<Chunked>> {
    let end = read.iter().position(|byte| *byte == b'\n');
    let seen = seen + end.map_or(read.len(), |end| end + 1);
    if seen > LONGEST_LINE {
        return Err(invalid(format!("its trailers are over {LONGEST_LINE} bytes")));
    }
    let Some(end) = end else { return Ok(None) };
    let line = read.split_to(end + 1);
    Ok(Some(if line == b"\r\n"[..] { Chunked::Ended } else { Chunked::Trailers(seen) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body comes to if so many bytes of it are read at a time; also what is left over.
    fn body(mut framing: Framing, text: &[u8], step: usize) -> io::Result<(Vec<u8>, usize)> {
        let (mut read, mut got) = (BytesMut::new(), Vec::new());
        for part in text.chunks(step) {
            read.extend_from_slice(part);
            while let Some(data) = framing.take(&mut read)? {
                got.extend_from_slice(&data);
            }
        }
        if !framing.is_ended() {
            framing.closed()?;
        }
        Ok((got, read.len()))
    }

    #[test]
    fn bodies_end_where_they_say() {
        let chunked = b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx-sum: 1\r\n\r\n";
        for step in [1, 2, 3, 7, 64] {
            let got = body(Framing::Chunked(Chunked::Size), chunked, step).unwrap();
            assert_eq!(got, (b"hello!".to_vec(), 0), "{step}");
            let got = body(Framing::Length(6), b"hello!", step).unwrap();
            assert_eq!(got, (b"hello!".to_vec(), 0), "{step}");
            let got = body(Framing::Close { ended: false }, b"hello!", step).unwrap();
            assert_eq!(got, (b"hello!".to_vec(), 0), "{step}");
        }
        let (got, left) = body(Framing::Length(2), b"abHTTP/1.1", 64).unwrap();
        assert_eq!((got.as_slice(), left), (&b"ab"[..], 8), "what follows is not the body's");
    }

    #[test]
    fn bodies_that_break_off_are_told_from_whole_ones() {
        for text in [&b""[..], b"5\r\nhel", b"5\r\nhello\r\n", b"0\r\n", b"0\r\nx: 1\r\n"] {
            let error = body(Framing::Chunked(Chunked::Size), text, 64).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{text:?}");
        }
        let error = body(Framing::Length(3), b"ab", 64).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let endless = vec![b'0'; LONGEST_LINE + 1];
        let extended = [b"5;".to_vec(), vec![b'x'; LONGEST_LINE]].concat();
        let trailers = [b"0\r\n".to_vec(), vec![b'x'; LONGEST_LINE + 1]].concat();
        for text in
            [&b"x\r\n"[..], b"-1\r\n", b"2\r\nabcd", b"fffffffffffffffff\r\n", &endless, &extended, &trailers]
        {
            let error = body(Framing::Chunked(Chunked::Size), text, 64).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{:?}", String::from_utf8_lossy(&text[..2]));
        }
    }
}
