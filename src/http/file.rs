//! A response's body that is a part of a file: read as the client takes it, and by no app thread.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use tokio::task::{JoinHandle, spawn_blocking};

use super::stream::End;

/// What is read at once, in bytes.
const BLOCK: u64 = 64 * 1024;

pub struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
    end: End,
    /// A block that had to be fetched from the disk.
    fetching: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Part {
    /// `length` bytes from `at` on. `end`: what comes then; the client was promised more, if it is [`End::Cut`].
    pub fn new(file: File, at: u64, length: u64, end: End) -> Self {
        Part { file: Arc::new(file), at, left: length, end, fetching: None }
    }

    /// How much is to come, if the file does not shrink; `None` if the response will be cut.
    pub fn len(&self) -> Option<u64> {
        (self.end == End::Complete).then_some(self.left)
    }

    /// The next block, or how the body ended. What the kernel has in memory is read at once, all else on a thread that may wait for the
    /// disk.
    pub fn poll_next(&mut self, cx: &mut Context) -> Poll<Result<Bytes, End>> {
        if self.left == 0 {
            return Poll::Ready(Err(self.end));
        }
        let size = self.left.min(BLOCK) as usize;
        let block = match &mut self.fetching {
            Some(fetching) => {
                let fetched = ready!(Pin::new(fetching).poll(cx));
                self.fetching = None;
                fetched.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.at_hand(size) {
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INVAL) => {
                    let (file, at) = (self.file.clone(), self.at);
                    self.fetching = Some(spawn_blocking(move || fetch(&file, at, size)));
                    return self.poll_next(cx);
                }
                block => block.map_err(io::Error::from),
            },
        };
        Poll::Ready(match block {
            Ok(block) if !block.is_empty() => {
                self.at += block.len() as u64;
                self.left -= block.len() as u64;
                Ok(block)
            }
            Ok(_) => {
                tracing::error!("a response is cut: its file has become shorter meanwhile");
                Err(End::Cut)
            }
            Err(error) => {
                tracing::error!("a response is cut: its file cannot be read: {error}");
                Err(End::Cut)
            }
        })
    }

    fn at_hand(&self, size: usize) -> Result<Bytes, Errno> {
        let mut block = vec![0; size];
        let read = preadv2(&self.file, &mut [IoSliceMut::new(&mut block)], self.at, ReadWriteFlags::NOWAIT)?;
        block.truncate(read);
        Ok(block.into())
    }
}

fn fetch(file: &File, at: u64, size: usize) -> io::Result<Bytes> {
    let mut block = vec![0; size];
    let read = file.read_at(&mut block, at)?;
    block.truncate(read);
    Ok(block.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn all(mut part: Part) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        loop {
            match std::future::poll_fn(|cx| part.poll_next(cx)).await {
                Ok(block) => bytes.extend_from_slice(&block),
                Err(end) => return (bytes, end),
            }
        }
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[tokio::test]
    async fn a_part_ends_where_it_should() {
        let content: Vec<u8> = (0..3 * BLOCK).map(|i| i as u8).collect();
        let part = Part::new(file(&content), 10, 2 * BLOCK, End::Complete);
        assert_eq!(part.len(), Some(2 * BLOCK));
        assert_eq!(all(part).await, (content[10..][..2 * BLOCK as usize].to_vec(), End::Complete));
    }

    #[tokio::test]
    async fn a_file_that_shrinks_cuts() {
        let content = vec![7; 2 * BLOCK as usize];
        let file = file(&content);
        let part = Part::new(file.try_clone().unwrap(), 0, 2 * BLOCK, End::Complete);
        file.set_len(BLOCK + 5).unwrap();
        assert_eq!(all(part).await, (vec![7; BLOCK as usize + 5], End::Cut));
    }

    #[tokio::test]
    async fn what_is_not_in_memory_is_fetched() {
        let file = file(&[7; 100]);
        let mut part = Part::new(file, 0, 100, End::Complete);
        let read = part.file.clone();
        part.fetching = Some(spawn_blocking(move || fetch(&read, 0, 60)));
        assert_eq!(all(part).await, (vec![7; 100], End::Complete));
    }
}
