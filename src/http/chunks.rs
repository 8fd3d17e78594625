//! Bytes in the order in which they came, in the pieces in which they came.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes, BytesMut};

/// A piece shorter than this is copied behind the one before it: a piece costs memory of its own, and keeps a buffer alive.
const SHORT: usize = 16 * 1024;

/// Read from the front, filled at the back.
#[derive(Debug, Default)]
pub struct Chunks {
    /// None is empty.
    whole: VecDeque<Bytes>,
    /// Short pieces, behind all others.
    tail: BytesMut,
    len: usize,
}

impl Chunks {
    /// In bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a piece behind which some `more` bytes are expected.
    pub fn push(&mut self, piece: Bytes, more: usize) {
        if piece.is_empty() {
            return;
        }
        if self.is_empty() || piece.len() >= SHORT {
            self.end_tail();
            self.len += piece.len();
            self.whole.push_back(piece);
            return;
        }
        if self.tail.is_empty() {
            self.tail.reserve(piece.len() + more);
        }
        self.len += piece.len();
        self.tail.extend_from_slice(&piece);
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            self.whole.push_back(self.tail.split().freeze());
        }
    }

    /// The first piece; empty at the end.
    pub fn first(&mut self) -> &[u8] {
        if self.whole.is_empty() {
            self.end_tail();
        }
        self.whole.front().map_or(&[], |piece| piece)
    }

    /// Takes the first piece off.
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.end_tail();
        }
        let piece = self.whole.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }
}

impl Read for Chunks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() && !self.is_empty() {
            let piece = self.first();
            let count = piece.len().min(buf.len() - filled);
            buf[filled..filled + count].copy_from_slice(&piece[..count]);
            self.consume(count);
            filled += count;
        }
        Ok(filled)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        Ok(self.first())
    }

    /// `count`: no more than [`Chunks::first`] has.
    fn consume(&mut self, count: usize) {
        if let Some(piece) = self.whole.front_mut() {
            piece.advance(count);
            self.len -= count;
            if piece.is_empty() {
                self.whole.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_in_order_however_it_was_cut() {
        let all: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        for sizes in [vec![1], vec![3, SHORT], vec![SHORT, 1, 1], vec![100, 2 * SHORT, 0, SHORT - 1]] {
            let (mut chunks, mut at) = (Chunks::default(), 0);
            for size in sizes.iter().cycle() {
                let end = all.len().min(at + size);
                chunks.push(Bytes::copy_from_slice(&all[at..end]), 10);
                at = end;
                if at == all.len() {
                    break;
                }
            }
            assert_eq!(chunks.len(), all.len());
            let mut read = vec![0; 7];
            chunks.read_exact(&mut read).unwrap();
            read.extend_from_slice(&chunks.pop().unwrap());
            chunks.read_to_end(&mut read).unwrap();
            assert!(read == all, "{sizes:?}");
            assert!(chunks.is_empty() && chunks.first().is_empty() && chunks.pop().is_none());
        }
    }

    #[test]
    fn short_pieces_share_memory_and_the_first_is_not_copied() {
        let mut chunks = Chunks::default();
        let first = Bytes::from_static(b"first");
        chunks.push(first.clone(), 0);
        assert_eq!(chunks.first().as_ptr(), first.as_ptr());
        for _ in 0..1000 {
            chunks.push(Bytes::from_static(b"short"), 0);
        }
        assert_eq!(chunks.pop(), Some(first));
        assert_eq!(chunks.pop().map(|piece| piece.len()), Some(5000));
    }
}
