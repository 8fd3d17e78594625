//! Follows the framing of a connection's requests: which bytes may go to hyper, and where the stream is wrong.
//!
//! A value without I/O: bytes in, a verdict out. Heads are released only when they are whole and judged; body bytes as they come.

use http::StatusCode;

use super::head::{self, BodyFraming, Rejection};

/// What chunk extensions and trailers of one body may add up to.
const MAX_CHUNK_EXTRAS: usize = 16 * 1024;
/// Hexadecimal digits of a chunk size: 60 bits.
const MAX_SIZE_DIGITS: u32 = 15;

/// Where in the stream the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Body(u64),
    Chunk(Chunk),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size {
        digits: u32,
        size: u64,
    },
    /// White space before an extension, which RFC 9112 calls bad, and lets recipients pass over.
    Space {
        size: u64,
    },
    Extension {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerLine,
    TrailerLf,
    EndLf,
}

#[derive(Debug)]
pub struct Framing {
    place: Place,
    max_head: usize,
    /// How much of an unfinished head has been searched for its end.
    searched: usize,
    extras: usize,
    heads: u64,
}

impl Framing {
    /// `max_head`: bytes of a request line and its header fields.
    pub fn new(max_head: usize) -> Self {
        Framing { place: Place::Head, max_head, searched: 0, extras: 0, heads: 0 }
    }

    /// Between two requests, or within a head.
    pub fn in_head(&self) -> bool {
        self.place == Place::Head
    }

    /// How many heads were released.
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// How many of `bytes` may be passed on. What remains is the start of a head, to be offered again with more behind it.
    ///
    /// With an error, the count of what stands before it is still good.
    pub fn advance(&mut self, bytes: &[u8]) -> (usize, Result<(), Rejection>) {
        let mut at = 0;
        while at < bytes.len() {
            let step = match self.place {
                Place::Head => match self.head(&bytes[at..]) {
                    Ok(0) => return (at, Ok(())),
                    step => step,
                },
                Place::Body(left) => {
                    let taken = left.min((bytes.len() - at) as u64);
                    self.place = if taken == left { Place::Head } else { Place::Body(left - taken) };
                    Ok(taken as usize)
                }
                Place::Chunk(chunk) => self.chunk(chunk, &bytes[at..]),
            };
            match step {
                Ok(taken) => at += taken,
                Err(rejection) => return (at, Err(rejection)),
            }
        }
        (at, Ok(()))
    }

    fn head(&mut self, bytes: &[u8]) -> Result<usize, Rejection> {
        let end = head::find_end(bytes, self.searched)?;
        if end.unwrap_or(bytes.len()) > self.max_head {
            return Err(if memchr::memchr(b'\n', &bytes[..self.max_head]).is_some() {
                Rejection {
                    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    reason: "the header fields are too large",
                }
            } else {
                Rejection { status: StatusCode::URI_TOO_LONG, reason: "the target is too long" }
            });
        }
        let Some(end) = end else {
            self.searched = bytes.len();
            return Ok(0);
        };
        self.searched = 0;
        self.extras = 0;
        self.place = match head::judge(&bytes[..end])? {
            BodyFraming::Length(0) => Place::Head,
            BodyFraming::Length(length) => Place::Body(length),
            BodyFraming::Chunked => Place::Chunk(Chunk::Size { digits: 0, size: 0 }),
        };
        self.heads += 1;
        Ok(end)
    }

    /// RFC 9112 section 7.1. Takes at least one byte.
    fn chunk(&mut self, chunk: Chunk, bytes: &[u8]) -> Result<usize, Rejection> {
        let byte = bytes[0];
        let (next, taken) = match (chunk, byte) {
            (Chunk::Size { digits, size }, b) if b.is_ascii_hexdigit() && digits < MAX_SIZE_DIGITS => {
                let digit = (b as char).to_digit(16).unwrap_or(0);
                (Chunk::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }, 1)
            }
            (Chunk::Size { digits: 1.., size }, b'\r') => (Chunk::SizeLf { size }, 1),
            (Chunk::Size { digits: 1.., size } | Chunk::Space { size }, b' ' | b'\t') => {
                (Chunk::Space { size }, self.extra(1)?)
            }
            (Chunk::Space { size }, b';') => (Chunk::Extension { size }, self.extra(1)?),
            (Chunk::Size { digits: 1.., size }, b';') => (Chunk::Extension { size }, self.extra(1)?),
            (Chunk::Extension { size }, b'\r') => (Chunk::SizeLf { size }, 1),
            (Chunk::Extension { size }, b) if head::is_value(b) => (Chunk::Extension { size }, self.extra(1)?),
            (Chunk::SizeLf { size: 0 }, b'\n') => (Chunk::Trailer, 1),
            (Chunk::SizeLf { size }, b'\n') => (Chunk::Data { left: size }, 1),
            (Chunk::Data { left }, _) => {
                let taken = left.min(bytes.len() as u64);
                let next = if taken == left { Chunk::DataCr } else { Chunk::Data { left: left - taken } };
                (next, taken as usize)
            }
            (Chunk::DataCr, b'\r') => (Chunk::DataLf, 1),
            (Chunk::DataLf, b'\n') => (Chunk::Size { digits: 0, size: 0 }, 1),
            (Chunk::Trailer, b'\r') => (Chunk::EndLf, 1),
            (Chunk::Trailer, b) if head::is_token(b) => (Chunk::TrailerLine, self.extra(1)?),
            (Chunk::TrailerLine, b'\r') => (Chunk::TrailerLf, 1),
            (Chunk::TrailerLine, b) if head::is_value(b) => (Chunk::TrailerLine, self.extra(1)?),
            (Chunk::TrailerLf, b'\n') => (Chunk::Trailer, 1),
            (Chunk::EndLf, b'\n') => {
                self.place = Place::Head;
                return Ok(1);
            }
            _ => return Err(Rejection { status: StatusCode::BAD_REQUEST, reason: "the chunked coding is wrong" }),
        };
        self.place = Place::Chunk(next);
        Ok(taken)
    }

    fn extra(&mut self, count: usize) -> Result<usize, Rejection> {
        self.extras += count;
        if self.extras > MAX_CHUNK_EXTRAS {
            let reason = "the chunk extensions or trailers are too long";
            return Err(Rejection { status: StatusCode::BAD_REQUEST, reason });
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// The same verdict, however the bytes are cut.
    fn whole(stream: &str) -> (usize, bool) {
        let at_once = Framing::new(1000).advance(stream.as_bytes());
        let mut framing = Framing::new(1000);
        let (mut start, mut end, mut verdict) = (0, 0, Ok(()));
        while end < stream.len() && verdict.is_ok() {
            end += 1;
            let (taken, result) = framing.advance(&stream.as_bytes()[start..end]);
            start += taken;
            verdict = result;
        }
        assert_eq!(at_once, (start, verdict), "{stream:?}");
        (start, verdict.is_ok())
    }

    #[test]
    fn pipelined_requests_pass() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = format!("{HEAD}3;a=\"b\"\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n");
        let all = format!("{post}{chunked}{post}");
        assert_eq!(whole(&all), (all.len(), true));
        assert_eq!(whole(&format!("{post}GET /")), (post.len(), true));
    }

    #[test]
    fn wrong_chunks_are_refused() {
        for body in [
            "3x\r\nabc\r\n0\r\n\r\n",
            "-3\r\nabc\r\n",
            "+3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            " 3\r\nabc\r\n",
            "\r\nabc\r\n",
            "3_0\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3;a\nb\r\nabc\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\n folded: 1\r\n\r\n",
        ] {
            assert!(!whole(&format!("{HEAD}{body}")).1, "{body:?}");
        }
        assert!(!whole(&format!("{HEAD}3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000))).1);
    }

    #[test]
    fn heads_have_a_limit() {
        let status = |stream: String| Framing::new(1000).advance(stream.as_bytes()).1.unwrap_err().status.as_u16();
        assert_eq!(status(format!("GET /{}", "a".repeat(2000))), 414);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(2000))), 431);
    }
}
