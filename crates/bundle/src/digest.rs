//! The name of a bundle's bytes: `sha256:` and 64 digits.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::Digest as _;

const SCHEME: &str = "sha256:";

/// The SHA-256 of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// What should be a digest and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: write sha256: and 64 hexadecimal digits in lower case")]
pub struct InvalidDigest(String);

impl Digest {
    /// Reads `sha256:…`.
    pub fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix(SCHEME) {
            Some(hex) if hex.len() == 64 && hex.bytes().all(is_digit) => Ok(Self(text.to_owned())),
            _ => Err(InvalidDigest(text.chars().take(80).collect())),
        }
    }

    /// That of a file's contents, read in pieces.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut tee = Tee::new(io::sink());
        io::copy(&mut File::open(path)?, &mut tee)?;
        Ok(tee.finish().1)
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0[SCHEME.len()..]
    }

    /// With the scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As much of it as people need.
    pub fn short(&self) -> &str {
        &self.0[..SCHEME.len() + 12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = InvalidDigest;

    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// Hands on what is written, or read, and keeps its digest and length.
#[derive(Debug)]
pub struct Tee<T> {
    inner: T,
    hasher: Sha256,
    length: u64,
}

impl<T> Tee<T> {
    /// Nothing has passed yet.
    pub fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), length: 0 }
    }

    /// How much has passed.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What it was wrapped around, and the digest of what has passed.
    pub fn finish(self) -> (T, Digest) {
        let hex: String = self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (self.inner, Digest(format!("{SCHEME}{hex}")))
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.pass(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(bytes)?;
        self.pass(&bytes[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That of "abc".
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_passes_is_counted_and_named() {
        let mut tee = Tee::new(Vec::new());
        tee.write_all(b"ab").unwrap();
        tee.write_all(b"c").unwrap();
        assert_eq!(tee.length(), 3);
        assert_eq!(tee.finish(), (b"abc".to_vec(), Digest::parse(ABC).unwrap()));
    }

    #[test]
    fn only_digests_are_digests() {
        assert_eq!(Digest::parse(ABC).unwrap().short(), "sha256:ba7816bf8f01");
        for text in ["", "sha256:", &ABC[7..], &ABC.to_uppercase(), &format!("{ABC}0"), "md5:00"] {
            assert!(Digest::parse(text).unwrap_err().to_string().contains("is no digest"), "{text}");
        }
    }
}
