//! Request bodies, until an app thread may have them: small ones whole and in memory, large ones of quick clients as they come, others
//! whole and in a temporary file.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::OwnedSemaphorePermit;

use super::chunks::Chunks;
use super::job::RequestBody;
use super::service::Shared;
use super::upload::Upload;

/// A body up to this size is read whole, and stays in memory; of what is larger, so much is read before it is decided what becomes of it:
/// it is streamed, or goes to a file without a name in the temporary folder (`TMPDIR`).
const IN_MEMORY: usize = 256 * 1024;
/// How much is gathered before it is written to the file.
const WRITE_SIZE: usize = 256 * 1024;
/// How long a quick client's body waits for a place before it goes to a file.
const PATIENCE: Duration = Duration::from_millis(200);
/// An app thread waits for the rest of a body that should be there within this time.
const SOON: Duration = Duration::from_secs(1);

/// Why there is no whole body.
#[derive(Debug)]
pub enum SpoolError {
    /// Past `ATRIO_MAX_BODY`.
    TooLarge,
    /// The client left, was too slow, or broke the framing.
    Client(String),
    /// The temporary file could not be written.
    Disk(io::Error),
}

impl std::fmt::Display for SpoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            SpoolError::TooLarge => f.write_str("the request body is larger than ATRIO_MAX_BODY allows"),
            SpoolError::Client(what) => write!(f, "the request body did not arrive whole: {what}"),
            SpoolError::Disk(error) => write!(f, "the request body could not be kept in a temporary file: {error}"),
        }
    }
}

/// The next piece of a body; `None` at its end.
pub async fn next_piece(body: &mut Incoming, shared: &Shared) -> Result<Option<Bytes>, SpoolError> {
    while !body.is_end_stream() {
        match body.frame().await {
            None => break,
            Some(Err(error)) => return Err(SpoolError::Client(client_error(&error))),
            // What is no data is a trailer.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    shared.slot.request_body_bytes.fetch_add(data.len() as u64, Relaxed);
                    return Ok(Some(data));
                }
            }
        }
    }
    Ok(None)
}

/// Reads a body: to its end, or so far that an app thread may take it. `arrived`: when its head had.
///
/// An app thread that reads a body is at its client's mercy: that takes one of the [places](Shared::places), and a client who has shown to
/// be quick. `place`: the app thread is there already.
pub async fn receive(
    mut body: Incoming,
    shared: &'static Shared,
    arrived: Instant,
    place: Option<OwnedSemaphorePermit>,
) -> Result<RequestBody, SpoolError> {
    let mut memory = Chunks::default();
    while memory.len() <= IN_MEMORY {
        let Some(piece) = next_piece(&mut body, shared).await? else { return Ok(RequestBody::Memory(memory)) };
        let more = (body.size_hint().lower() as usize).min(IN_MEMORY);
        memory.push(piece, more);
        check(memory.len() as u64, shared)?;
    }
    if body.is_end_stream() {
        return Ok(RequestBody::Memory(memory));
    }
    // Of a length that is not told, nobody knows yet whether it is too large.
    if let Some(rest) = body.size_hint().exact() {
        let place = match place {
            Some(place) => Some(place),
            None if is_quick(arrived.elapsed(), memory.len(), rest) => free_place(shared).await,
            None => None,
        };
        if let Some(place) = place {
            return Ok(RequestBody::Upload(Upload::start(memory, rest, body, shared, place)));
        }
    }
    spool(memory, body, shared).await
}

fn check(received: u64, shared: &Shared) -> Result<(), SpoolError> {
    if received > shared.max_body { Err(SpoolError::TooLarge) } else { Ok(()) }
}

/// A place, if one is free soon: the client has to wait meanwhile.
async fn free_place(shared: &Shared) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(PATIENCE, shared.places.clone().acquire_owned()).await.ok()?.ok()
}

/// Whether a client who sent `sent` bytes in `took` would send the `rest` soon enough for an app thread to wait for it.
fn is_quick(took: Duration, sent: usize, rest: u64) -> bool {
    took.as_secs_f64() * (rest as f64 / sent as f64) <= SOON.as_secs_f64()
}

/// Reads a body to its end, to a file.
async fn spool(mut memory: Chunks, mut body: Incoming, shared: &Shared) -> Result<RequestBody, SpoolError> {
    let (mut file, mut total) = (None, memory.len() as u64);
    while let Some(piece) = next_piece(&mut body, shared).await? {
        total += piece.len() as u64;
        check(total, shared)?;
        memory.push(piece, WRITE_SIZE);
        if memory.len() >= WRITE_SIZE {
            file = Some(append(file, std::mem::take(&mut memory)).await.map_err(SpoolError::Disk)?);
        }
    }
    let mut file = append(file, memory).await.map_err(SpoolError::Disk)?;
    file.rewind().map_err(SpoolError::Disk)?;
    Ok(RequestBody::File(file, total))
}

/// Writes on a thread that may block.
async fn append(file: Option<File>, mut data: Chunks) -> io::Result<File> {
    let write = move || {
        let mut file = file.map_or_else(tempfile::tempfile, Ok)?;
        while let Some(piece) = data.pop() {
            file.write_all(&piece)?;
        }
        Ok(file)
    };
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}

fn client_error(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| source.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_quick_by_what_it_still_has_to_send() {
        let rate = |milliseconds| Duration::from_millis(milliseconds);
        assert!(is_quick(rate(10), IN_MEMORY, 16 << 20));
        assert!(!is_quick(rate(100), IN_MEMORY, 16 << 20));
        assert!(is_quick(rate(100), IN_MEMORY, 1 << 20));
        assert!(!is_quick(rate(1), 1, u64::MAX));
    }
}
