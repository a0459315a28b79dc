//! The frames between agent and sandbox: a 16-byte little-endian header, meta (JSON), body. Bytes in, bytes out.
//!
//! To the sandbox: `seq, kind, meta length, body length`; from it: `seq, status, meta length, body length`.
//! What a sandbox sends is the handler's to forge, so every field is checked before it is believed.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

/// Length of a frame's header.
pub const HEADER: usize = 16;
/// The longest meta a reply may have: a traceback and some.
pub const MAX_META: u32 = 256 * 1024;

/// What a frame to the sandbox asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Load the handler's code; only a failure is answered, as the reply to the next call.
    Load = 1,
    /// Call the handler.
    Call = 2,
    /// Give the code back, compiled.
    Compile = 3,
    /// Load the handler's code to see whether that can be done.
    Check = 4,
    /// Load the handler's code, and say whether that was done.
    Prove = 5,
}

/// How the sandbox says it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The body is the handler's result as JSON text, or the compiled code.
    Ok,
    /// The handler raised.
    Exception,
    /// The event is no JSON.
    BadEvent,
    /// The result is no JSON.
    BadResult,
    /// The code cannot be loaded or compiled.
    LoadFailed,
}

/// What a sandbox must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An unknown status.
    #[error("a reply of unknown status {0}")]
    Status(u32),
    /// A reply to another call.
    #[error("a reply to call {got} when call {want} was asked")]
    Sequence {
        /// The number in the reply.
        got: u32,
        /// The number of the call.
        want: u32,
    },
    /// Meta over [`MAX_META`].
    #[error("a reply whose description is {0} bytes long")]
    MetaLength(u32),
    /// Meta that is no JSON of the agreed form.
    #[error("a reply whose description is no JSON")]
    Meta,
    /// Bytes after the reply.
    #[error("{0} bytes after its reply")]
    Trailing(usize),
}

/// A reply's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How it went.
    pub status: Status,
    /// Bytes of meta that follow.
    pub meta_len: usize,
    /// Bytes of body after that.
    pub body_len: usize,
}

/// A reply's meta. Which fields are there depends on the status; a missing one is its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// How long loading took, in microseconds; on the first reply after a load.
    pub load_us: Option<u64>,
    /// How long the handler itself took, in microseconds.
    pub run_us: Option<u64>,
    /// The modules that it has loaded from packages, by the package's folder; on the first reply after a load that was to tell.
    pub imported: Option<BTreeMap<String, Vec<String>>>,
    /// The exception's type.
    #[serde(rename = "errorType")]
    pub error_type: Option<String>,
    /// What went wrong.
    pub message: String,
    /// The traceback.
    pub traceback: Option<String>,
    /// The handler's file that is to blame, below its directory.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u64>,
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// How it went.
    pub status: Status,
    /// The description.
    pub meta: Meta,
    /// The result.
    pub body: Bytes,
}

/// Appends a frame's header and meta to `out`; `body_len` bytes of body are to follow. `meta` appends the meta.
pub fn put(out: &mut Vec<u8>, seq: u32, kind: Kind, body_len: usize, meta: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    meta(out);
    let meta_len = out.len() - start - HEADER;
    for (index, field) in [seq, kind as u32, length(meta_len), length(body_len)].into_iter().enumerate() {
        let at = start + 4 * index;
        out[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
}

/// Sets the number of a frame that was put with another.
pub fn set_sequence(frame: &mut [u8], seq: u32) {
    if let Some(field) = frame.first_chunk_mut() {
        *field = seq.to_le_bytes();
    }
}

/// The number in a reply's header.
pub fn sequence(bytes: &[u8; HEADER]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Requests and code are bounded far below 4 GiB; were one not, the sandbox would see the mismatch.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Appends a JSON string.
pub fn put_json_string(out: &mut Vec<u8>, text: &str) {
    // Writing a string to a Vec cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// The meta of a call.
pub fn put_call_meta(out: &mut Vec<u8>, id: &str, method: &str, path: &str) {
    out.extend_from_slice(b"{\"id\":");
    put_json_string(out, id);
    out.extend_from_slice(b",\"method\":");
    put_json_string(out, method);
    out.extend_from_slice(b",\"path\":");
    put_json_string(out, path);
    out.push(b'}');
}

/// Reads a reply's header and checks it against the number of the call.
pub fn parse_head(bytes: &[u8; HEADER], want: u32) -> Result<Head, Violation> {
    let field = |index: usize| {
        let at = 4 * index;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let status = match field(1) {
        0 => Status::Ok,
        1 => Status::Exception,
        2 => Status::BadEvent,
        3 => Status::BadResult,
        4 => Status::LoadFailed,
        other => return Err(Violation::Status(other)),
    };
    if field(0) != want {
        return Err(Violation::Sequence { got: field(0), want });
    }
    if field(2) > MAX_META {
        return Err(Violation::MetaLength(field(2)));
    }
    Ok(Head { status, meta_len: field(2) as usize, body_len: field(3) as usize })
}

/// Reads a reply's meta.
pub fn parse_meta(bytes: &[u8]) -> Result<Meta, Violation> {
    if bytes.is_empty() {
        return Ok(Meta::default());
    }
    serde_json::from_slice(bytes).map_err(|_| Violation::Meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: [u32; 4]) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        for (index, field) in fields.into_iter().enumerate() {
            bytes[4 * index..4 * index + 4].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn a_call_is_header_meta_body() {
        let mut out = b"before".to_vec();
        put(&mut out, 7, Kind::Call, 3, |out| put_call_meta(out, "a\"b", "POST", "/run/x?q=1"));
        let meta = br#"{"id":"a\"b","method":"POST","path":"/run/x?q=1"}"#;
        assert_eq!(out[6..22], header([7, 2, meta.len() as u32, 3]));
        assert_eq!(&out[22..], meta);
    }

    #[test]
    fn a_head_is_checked() {
        let good = parse_head(&header([9, 1, 10, 20]), 9);
        assert_eq!(good, Ok(Head { status: Status::Exception, meta_len: 10, body_len: 20 }));
        assert_eq!(parse_head(&header([9, 5, 0, 0]), 9), Err(Violation::Status(5)));
        assert_eq!(parse_head(&header([8, 0, 0, 0]), 9), Err(Violation::Sequence { got: 8, want: 9 }));
        assert_eq!(parse_head(&header([9, 0, MAX_META + 1, 0]), 9), Err(Violation::MetaLength(MAX_META + 1)));
        assert!(parse_head(b"HTTP/1.1 200 OK\r", 9).is_err());
    }

    #[test]
    fn meta_is_json_or_nothing() {
        assert_eq!(parse_meta(b""), Ok(Meta::default()));
        let meta = parse_meta(br#"{"errorType":"KeyError","message":"'x'","line":3,"new":1}"#).unwrap();
        assert_eq!(
            (meta.error_type.as_deref(), meta.message.as_str(), meta.line),
            (Some("KeyError"), "'x'", Some(3))
        );
        for bad in [&b"garbage"[..], b"[]]", b"{\"load_us\":-1}", b"\xff"] {
            assert_eq!(parse_meta(bad), Err(Violation::Meta), "{bad:?} was taken");
        }
    }
}
