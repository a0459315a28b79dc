//! What the agent asks of a Zygote, and what the Zygote answers: fixed little-endian records, since this is the hot path.
//!
//! Descriptors that go with a request, in this order: the sandbox's stream (or the control socket, if [`BRANCH`]), its stdout, its
//! stderr, then (if [`HAS_CODE`]) a detached mount of the code or (if [`BRANCH`]) a file that says what to import, then the cgroup: on
//! v2 the directory to be born in, on v1 one `tasks` file per controller.

use std::io;

/// The request has a code mount.
pub const HAS_CODE: u32 = 1;
/// The cgroup descriptors are one directory of v2 (else `tasks` files of v1).
pub const CGROUP_V2: u32 = 2;
/// The child is not to be a sandbox but another Zygote, in a user namespace of its own.
pub const BRANCH: u32 = 4;
/// The child gets its code and its limits later, by an [`Assignment`] on its stream.
pub const SPARE: u32 = 8;

/// A request to fork a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkRequest {
    /// The agent's number for the sandbox; comes back in the reply.
    pub id: u64,
    /// [`HAS_CODE`], [`CGROUP_V2`], [`BRANCH`], [`SPARE`].
    pub flags: u32,
    /// User and group of the child, inside the Zygote's user namespace; never 0. That of a branch is root in its own.
    pub uid: u32,
    /// Bytes that `/host` and `/tmp` may hold together.
    pub scratch: u64,
    /// Open files the sandbox may have (`RLIMIT_NOFILE`).
    pub open_files: u32,
}

/// A Zygote's answer; on success a pidfd goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkReply {
    /// The number of the request.
    pub id: u64,
    /// The sandbox's pid in the nursery, 0 if it failed.
    pub pid: i32,
    /// The error number of the failed `clone3`, 0 if none.
    pub errno: i32,
}

/// What a spare sandbox still has to be told; a detached mount of its code goes with it if [`HAS_CODE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// [`HAS_CODE`].
    pub flags: u32,
    /// As in the request.
    pub open_files: u32,
    /// As in the request.
    pub scratch: u64,
}

const REQUEST: usize = 28;
/// Bytes of an assignment.
pub const ASSIGNMENT: usize = 16;
const REPLY: usize = 16;

impl ForkRequest {
    /// As bytes.
    pub fn encode(&self) -> [u8; REQUEST] {
        let mut out = [0; REQUEST];
        out[0..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..12].copy_from_slice(&self.flags.to_le_bytes());
        out[12..16].copy_from_slice(&self.uid.to_le_bytes());
        out[16..24].copy_from_slice(&self.scratch.to_le_bytes());
        out[24..28].copy_from_slice(&self.open_files.to_le_bytes());
        out
    }

    /// From bytes; a wrong length or uid 0 is an error.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let bytes: &[u8; REQUEST] =
            bytes.try_into().map_err(|_| invalid("a fork request of a wrong length"))?;
        let request = Self {
            id: u64_at(bytes, 0),
            flags: u32_at(bytes, 8),
            uid: u32_at(bytes, 12),
            scratch: u64_at(bytes, 16),
            open_files: u32_at(bytes, 24),
        };
        if request.uid == 0 { Err(invalid("a fork request for uid 0")) } else { Ok(request) }
    }
}

impl Assignment {
    /// As bytes.
    pub fn encode(&self) -> [u8; ASSIGNMENT] {
        let mut out = [0; ASSIGNMENT];
        out[0..4].copy_from_slice(&self.flags.to_le_bytes());
        out[4..8].copy_from_slice(&self.open_files.to_le_bytes());
        out[8..16].copy_from_slice(&self.scratch.to_le_bytes());
        out
    }

    /// From bytes.
    pub fn decode(bytes: &[u8; ASSIGNMENT]) -> Self {
        Self { flags: u32_at(bytes, 0), open_files: u32_at(bytes, 4), scratch: u64_at(bytes, 8) }
    }
}

impl ForkReply {
    /// As bytes.
    pub fn encode(&self) -> [u8; REPLY] {
        let mut out = [0; REPLY];
        out[0..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..12].copy_from_slice(&self.pid.to_le_bytes());
        out[12..16].copy_from_slice(&self.errno.to_le_bytes());
        out
    }

    /// From bytes; a wrong length is an error.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let bytes: &[u8; REPLY] = bytes.try_into().map_err(|_| invalid("a fork reply of a wrong length"))?;
        Ok(Self { id: u64_at(bytes, 0), pid: u32_at(bytes, 8) as i32, errno: u32_at(bytes, 12) as i32 })
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_and_replies_round_trip(id: u64, flags in 0u32..16, uid in 1u32.., scratch: u64, open_files: u32, pid: i32, errno: i32) {
            let request = ForkRequest { id, flags, uid, scratch, open_files };
            prop_assert_eq!(ForkRequest::decode(&request.encode()).unwrap(), request);
            let reply = ForkReply { id, pid, errno };
            prop_assert_eq!(ForkReply::decode(&reply.encode()).unwrap(), reply);
            let assignment = Assignment { flags, open_files, scratch };
            prop_assert_eq!(Assignment::decode(&assignment.encode()), assignment);
        }

        #[test]
        fn other_lengths_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(ForkRequest::decode(&bytes).is_ok(), bytes.len() == REQUEST && bytes[12..16] != [0; 4]);
            prop_assert_eq!(ForkReply::decode(&bytes).is_ok(), bytes.len() == REPLY);
        }
    }
}
