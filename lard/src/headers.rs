//! What is taken off and put on the headers that pass through, in both directions.

use hyper::Uri;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
};
use hyper::header::{PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE};
use openlambda_api::headers::{REQUEST_ID, REQUEST_ID_MAX};
use uuid::Uuid;

/// The call's id, in and out.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static(REQUEST_ID);
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What belongs to one connection and not to the message (RFC 9110, 7.6.1), besides what `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    PROXY_CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The caller's id, if it is one to honour: 1 to 128 printable ASCII characters without blanks; else a new one.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(X_REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    given.cloned().unwrap_or_else(|| {
        let mut buffer = Uuid::encode_buffer();
        let text = Uuid::new_v4().hyphenated().encode_lower(&mut buffer);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
    })
}

/// Makes the headers of an HTTP/2 request those of HTTP/1.1: the host stands in the address there, and cookies may come
/// one by one (RFC 9113, 8.2.3).
pub fn from_http2(headers: &mut HeaderMap, uri: &Uri) {
    if !headers.contains_key(HOST)
        && let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok())
    {
        headers.insert(HOST, host);
    }
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            headers.insert(COOKIE, joined);
        }
    }
}

/// Makes a client's headers those of the request to an agent, together with those that it gives: a map that has grown
/// full is not made anew for three more.
pub fn to_agent(
    headers: &mut HeaderMap,
    id: &HeaderValue,
    peer: &HeaderValue,
) -> Vec<(HeaderName, HeaderValue)> {
    strip_hop_by_hop(headers);
    let has = |wanted: &HeaderName| headers.keys().any(|name| name == wanted);
    let (length, expect) = (has(&CONTENT_LENGTH), has(&EXPECT));
    let (has_id, has_peer, has_host) = (has(&X_REQUEST_ID), has(&X_FORWARDED_FOR), has(&X_FORWARDED_HOST));
    // The body was collected: its length is set anew, and lard itself decides what it expects.
    if length {
        headers.remove(CONTENT_LENGTH);
    }
    if expect {
        headers.remove(EXPECT);
    }
    let mut added = Vec::with_capacity(3);
    if has_id {
        headers.insert(X_REQUEST_ID, id.clone());
    } else {
        added.push((X_REQUEST_ID, id.clone()));
    }
    if !has_peer {
        added.push((X_FORWARDED_FOR, peer.clone()));
    }
    if !has_host && let Some(host) = headers.get(HOST) {
        added.push((X_FORWARDED_HOST, host.clone()));
    }
    added
}

/// Makes an agent's headers those of the answer to the client.
pub fn to_client(headers: &mut HeaderMap, id: &HeaderValue) {
    strip_hop_by_hop(headers);
    headers.insert(X_REQUEST_ID, id.clone());
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // To compare names is cheaper than to look each up; mostly there is none.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn hop_by_hop_goes_and_the_rest_stays() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("content-length", "3"),
            ("host", "front"),
            ("x-theirs", "2"),
        ]);
        let (id, peer) = (HeaderValue::from_static("r"), HeaderValue::from_static("10.0.0.1"));
        let added = to_agent(&mut headers, &id, &peer);
        headers.extend(added);
        let expected = map(&[
            ("host", "front"),
            ("x-theirs", "2"),
            ("x-request-id", "r"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "front"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn an_id_that_is_not_honoured_is_replaced() {
        let mut headers = map(&[("x-request-id", "a b"), ("x-request-id", "c d")]);
        let added = to_agent(&mut headers, &HeaderValue::from_static("r"), &HeaderValue::from_static("p"));
        assert_eq!(headers, map(&[("x-request-id", "r")]));
        assert_eq!(added, [(X_FORWARDED_FOR, HeaderValue::from_static("p"))]);
    }

    #[test]
    fn what_http2_has_otherwise() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "1")]);
        from_http2(&mut headers, &Uri::from_static("http://front:80/run/f"));
        assert_eq!(headers, map(&[("cookie", "a=1; b=2"), ("x-a", "1"), ("host", "front:80")]));
        let same = headers.clone();
        from_http2(&mut headers, &Uri::from_static("/run/f"));
        assert_eq!(headers, same);
    }

    #[test]
    fn forwarded_headers_of_a_proxy_in_front_stay() {
        let mut headers = map(&[("host", "b"), ("x-forwarded-for", "1.2.3.4"), ("x-forwarded-host", "a")]);
        let (id, peer) = (HeaderValue::from_static("r"), HeaderValue::from_static("10.0.0.1"));
        let added = to_agent(&mut headers, &id, &peer);
        assert_eq!(added, [(X_REQUEST_ID, id)]);
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-host"]),
            (&HeaderValue::from_static("1.2.3.4"), &HeaderValue::from_static("a"))
        );
    }

    #[test]
    fn an_answer_carries_the_id_of_its_call() {
        let mut headers = map(&[("x-a", "1"), ("connection", "close")]);
        to_client(&mut headers, &HeaderValue::from_static("r"));
        assert_eq!(headers, map(&[("x-a", "1"), ("x-request-id", "r")]));
    }

    #[test]
    fn ids_are_honoured_or_minted() {
        assert_eq!(request_id(&map(&[("x-request-id", "abc-1")])), "abc-1");
        let long: &'static str = "x".repeat(129).leak();
        for bad in ["", "a b", "a\tb", long] {
            let minted = request_id(&map(&[("x-request-id", bad)]));
            assert!(Uuid::parse_str(minted.to_str().unwrap()).is_ok(), "{minted:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
