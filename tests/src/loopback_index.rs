//! A package index on loopback (PEP 503) with packages made on the spot, so that a test decides what is in them and how they fail.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Result, anyhow};
use sha2::{Digest as _, Sha256};

use crate::wait::PATIENCE;

/// An index; it answers until the process ends.
#[derive(Debug)]
pub struct LoopbackIndex {
    port: u16,
    files: Files,
    asked: Asked,
}

/// What was asked for, in that order.
type Asked = Arc<Mutex<Vec<String>>>;
type Files = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

impl LoopbackIndex {
    /// An empty one.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, files, asked) = (listener.local_addr()?.port(), Files::default(), Asked::default());
        let (served, noted) = (Arc::clone(&files), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, asked) = (Arc::clone(&served), Arc::clone(&noted));
                // A client that goes away harms nobody.
                std::thread::spawn(move || answer(stream, &files, &asked));
            }
        });
        Ok(Self { port, files, asked })
    }

    /// What `pip_mirror` is to be.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/simple", self.port)
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> Result<usize> {
        let asked = self.asked.lock().map_err(|_| anyhow!("the index has failed"))?;
        Ok(asked.iter().filter(|one| *one == path).count())
    }

    /// Adds a wheel for any Python; `requires` are its dependencies. Gives its hash.
    pub fn wheel(
        &self,
        name: &str,
        version: &str,
        requires: &[&str],
        files: &[(&str, &str)],
    ) -> Result<String> {
        let bytes = wheel(name, version, requires, files)?;
        let hash = hex(&bytes);
        self.add(name, &format!("{name}-{version}-py3-none-any.whl"), &hash, bytes)?;
        Ok(hash)
    }

    /// Adds a file under any name, with any hash.
    pub fn add(&self, name: &str, file: &str, hash: &str, bytes: Vec<u8>) -> Result<()> {
        let mut files = self.files.lock().map_err(|_| anyhow!("the index has failed"))?;
        files.insert(format!("/files/{file}"), bytes);
        let page = files.entry(format!("/simple/{}/", name.replace('_', "-"))).or_default();
        let link = format!("<a href=\"/files/{file}#sha256={hash}\">{file}</a><br>\n");
        page.extend_from_slice(link.as_bytes());
        Ok(())
    }
}

fn answer(mut stream: TcpStream, files: &Files, asked: &Asked) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk)? {
            0 => return Ok(()),
            count => request.extend_from_slice(&chunk[..count]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split(' ').nth(1).unwrap_or_default();
    asked.lock().map_err(|_| anyhow!("the index has failed"))?.push(path.to_owned());
    let found = files.lock().map_err(|_| anyhow!("the index has failed"))?.get(path).cloned();
    let kind = if path.starts_with("/simple/") { "text/html" } else { "application/octet-stream" };
    let (status, body) = match found {
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n");
    let _ = write!(head, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    if !text.starts_with("HEAD ") {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// The bytes of a wheel.
pub fn wheel(name: &str, version: &str, requires: &[&str], files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let info = format!("{name}-{version}.dist-info");
    let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    for require in requires {
        metadata.push_str(&format!("Requires-Dist: {require}\n"));
    }
    let tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let mut all: Vec<(String, String)> =
        files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    all.push((format!("{info}/METADATA"), metadata));
    all.push((format!("{info}/WHEEL"), tags.to_owned()));
    let mut record: String = all.iter().map(|(path, _)| format!("{path},,\n")).collect();
    record.push_str(&format!("{info}/RECORD,,\n"));
    all.push((format!("{info}/RECORD"), record));
    zip(&all)
}

/// The SHA-256 of some bytes, in hex.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A zip archive without compression.
fn zip(files: &[(String, String)]) -> Result<Vec<u8>> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (path, text) in files {
        let mut common = Vec::new();
        // Needs version 2.0, no flags, stored, 1980-01-01.
        for field in [20_u16, 0, 0, 0, 0x21] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        let size = u32::try_from(text.len())?;
        for field in [crc32(text.as_bytes()), size, size] {
            common.extend_from_slice(&field.to_le_bytes());
        }
        common.extend_from_slice(&u16::try_from(path.len())?.to_le_bytes());
        common.extend_from_slice(&0_u16.to_le_bytes());
        let offset = u32::try_from(out.len())?;
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&common);
        out.extend_from_slice(path.as_bytes());
        out.extend_from_slice(text.as_bytes());
        directory.extend_from_slice(b"PK\x01\x02");
        // Made by Unix, version 2.0.
        directory.extend_from_slice(&0x0314_u16.to_le_bytes());
        directory.extend_from_slice(&common);
        // No comment, first disk, no internal attributes; a plain file with mode 644.
        directory.extend_from_slice(&[0; 6]);
        directory.extend_from_slice(&(0o100_644_u32 << 16).to_le_bytes());
        directory.extend_from_slice(&offset.to_le_bytes());
        directory.extend_from_slice(path.as_bytes());
    }
    let (count, begin, size) = (u16::try_from(files.len())?, out.len(), directory.len());
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&u32::try_from(size)?.to_le_bytes());
    out.extend_from_slice(&u32::try_from(begin)?.to_le_bytes());
    out.extend_from_slice(&0_u16.to_le_bytes());
    Ok(out)
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }
}
