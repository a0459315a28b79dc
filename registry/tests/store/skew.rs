//! A request that was signed at another time. The client of the store takes no other clock than the machine's, so it is signed
//! by hand here; what the store makes of the refusal is a test of its errors.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use jiff::{SignedDuration, Timestamp};
use openlambda_config::registry::{Keys, REGION, S3Config};
use sha2::{Digest as _, Sha256};

use crate::support::{Rig, foreign};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// HMAC-SHA-256, with a key of a block at most.
fn hmac(key: &[u8], text: &str) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    sha256(&[&pad(0x5c), &sha256(&[&pad(0x36), text.as_bytes()])])
}

/// Asks for a list of the bucket as if it were `shift` later; gives the whole answer.
fn list_at(config: &S3Config, keys: &Keys, shift: SignedDuration) -> String {
    let host = config.endpoint.as_deref().unwrap().trim_start_matches("http://").to_owned();
    let time = (Timestamp::now() + shift).strftime("%Y%m%dT%H%M%SZ").to_string();
    let (day, empty) = (&time[..8], hex(&sha256(&[])));
    let (path, query, signed) =
        (format!("/{}", config.bucket), "list-type=2", "host;x-amz-content-sha256;x-amz-date");
    let canonical = format!(
        "GET\n{path}\n{query}\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{time}\n\n{signed}\n{empty}"
    );
    let scope = format!("{day}/{REGION}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&sha256(&[canonical.as_bytes()])));
    let first = hmac(format!("AWS4{}", keys.secret.expose()).as_bytes(), day);
    let key = [REGION, "s3", "aws4_request"].iter().fold(first, |key, part| hmac(&key, part));
    let signature = hex(&hmac(&key, &text));
    let mut stream = TcpStream::connect(&host).unwrap();
    let request = format!(
        "GET {path}?{query} HTTP/1.1\r\nhost: {host}\r\nx-amz-content-sha256: {empty}\r\nx-amz-date: {time}\r\n\
         authorization: AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={signed},Signature={signature}\r\n\
         connection: close\r\n\r\n",
        keys.access
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_an_hour_off_is_refused_by_that_name() {
    let (_rig, embedded) = Rig::embedded_with_config().await;
    for config in [Some(embedded), foreign("SERVER")].into_iter().flatten() {
        let keys = config.keys.clone().unwrap();
        let now = list_at(&config, &keys, SignedDuration::ZERO);
        assert!(now.starts_with("HTTP/1.1 200 "), "{now}");
        for hours in [-1, 1] {
            let answer = list_at(&config, &keys, SignedDuration::from_hours(hours));
            assert!(
                answer.starts_with("HTTP/1.1 403 ") && answer.contains("<Code>RequestTimeTooSkewed</Code>"),
                "{answer}"
            );
        }
    }
}
