//! What messages of HTTP/1.1 are written of, to agents and to clients.

use std::io::Write as _;

use hyper::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};

/// A part of a body up to this size is copied behind what stands before it: that costs less than to have the kernel gather
/// both.
pub const TOGETHER: usize = 8 << 10;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Not at all: there is none.
    None,
    /// By its length.
    Exact(u64),
    /// Chunk by chunk.
    Chunked,
}

impl Length {
    /// Writes the header that tells it.
    pub fn write(self, buffer: &mut Vec<u8>) {
        match self {
            Self::None => {}
            // A Vec takes all that it is given.
            Self::Exact(length) => drop(write!(buffer, "{CONTENT_LENGTH}: {length}\r\n")),
            Self::Chunked => line(buffer, &TRANSFER_ENCODING, b"chunked"),
        }
    }
}

/// Writes a header.
pub fn line(buffer: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        buffer.extend_from_slice(part);
    }
}
