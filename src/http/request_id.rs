//! `X-Request-ID`: follows a request through the logs, to the site, and back to the client.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// An id longer than this is not taken over.
const MAX_LENGTH: usize = 128;

/// Visible ASCII without quotes and backslashes: it needs no escaping anywhere.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Of 128 random bits, in hexadecimal digits.
    pub fn new(bits: u128) -> Self {
        let mut text = [0; 32];
        write_hex(&bits.to_be_bytes(), &mut text);
        let header = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
        RequestId(header.unwrap_or(HeaderValue::from_static("-")))
    }

    /// The one that a trusted proxy gave, if it is plain and not too long.
    pub fn take_over(given: &HeaderValue) -> Option<Self> {
        let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'"' && *byte != b'\\';
        let fits = (1..=MAX_LENGTH).contains(&given.len()) && given.as_bytes().iter().all(is_plain);
        fits.then(|| RequestId(given.clone()))
    }

    pub fn as_header(&self) -> &HeaderValue {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }
}

/// What `write_hex` writes for each byte.
const HEX: [[u8; 2]; 256] = {
    let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < 256 {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Two digits for each byte.
pub fn write_hex(bytes: &[u8], text: &mut [u8]) {
    for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = HEX[usize::from(*byte)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_over_when_they_need_no_escaping() {
        let taken = |text: &str| RequestId::take_over(&HeaderValue::from_bytes(text.as_bytes()).unwrap()).is_some();
        assert!(taken("a-1_2.3:4/5"));
        assert!(taken(&"a".repeat(MAX_LENGTH)));
        for text in ["", "a b", "a\"", "a\\", "\u{e4}", &"a".repeat(MAX_LENGTH + 1)] {
            assert!(!taken(text), "{text:?}");
        }
    }

    #[test]
    fn new_ids_have_32_digits() {
        assert_eq!(RequestId::new(0x9 << 120 | 0xab).as_str(), "090000000000000000000000000000ab");
    }
}
