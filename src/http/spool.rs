//! Request bodies: read whole before an app thread is taken, in memory while small, then in a temporary file.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::oneshot;

use super::engine::Engine;
use super::service::Shared;

/// A body up to this size stays in memory; what is larger goes to a file without a name in the temporary folder (`TMPDIR`).
pub const IN_MEMORY: usize = 256 * 1024;
/// How much is gathered before it is written to the file.
const WRITE_SIZE: usize = 256 * 1024;

/// A whole body.
#[derive(Debug)]
pub enum Spooled {
    Memory(Bytes),
    /// Read from its start.
    File(File, u64),
}

impl Spooled {
    pub fn len(&self) -> u64 {
        match self {
            Spooled::Memory(bytes) => bytes.len() as u64,
            Spooled::File(_, len) => *len,
        }
    }
}

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

/// Reads a body to its end.
pub async fn spool(mut body: Incoming, limit: u64) -> Result<Spooled, SpoolError> {
    if body.size_hint().lower() > limit {
        return Err(SpoolError::TooLarge);
    }
    let (mut first, mut memory, mut file, mut total) = (Bytes::new(), BytesMut::new(), None, 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SpoolError::Client(client_error(&error)))?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len() as u64;
        if total > limit {
            return Err(SpoolError::TooLarge);
        }
        if total == data.len() as u64 {
            first = data;
            continue;
        }
        if memory.is_empty() && file.is_none() {
            memory.reserve(first.len() + (body.size_hint().lower() as usize + data.len()).min(WRITE_SIZE));
            memory.extend_from_slice(&std::mem::take(&mut first));
        }
        memory.extend_from_slice(&data);
        if total > IN_MEMORY as u64 && memory.len() >= WRITE_SIZE {
            let (written, emptied) = append(file, memory).await.map_err(SpoolError::Disk)?;
            (file, memory) = (Some(written), emptied);
        }
    }
    match file {
        None if memory.is_empty() => Ok(Spooled::Memory(first)),
        None => Ok(Spooled::Memory(memory.freeze())),
        file => {
            let (mut file, _) = append(file, memory).await.map_err(SpoolError::Disk)?;
            file.rewind().map_err(SpoolError::Disk)?;
            Ok(Spooled::File(file, total))
        }
    }
}

/// Writes on a thread that may block; the file, and the buffer to be filled again: fresh memory costs more than the write.
async fn append(file: Option<File>, mut data: BytesMut) -> io::Result<(File, BytesMut)> {
    let write = move || {
        let mut file = file.map_or_else(tempfile::tempfile, Ok)?;
        file.write_all(&data)?;
        data.clear();
        Ok((file, data))
    };
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}

fn client_error(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| source.to_string())
}

/// The body of a request with `Expect: 100-continue`: it is asked for when the site first reads, not before.
pub struct OnDemand {
    engine: &'static Engine,
    ask: oneshot::Sender<()>,
    answer: mpsc::Receiver<Result<Spooled, SpoolError>>,
}

impl OnDemand {
    /// The site's end, and the I/O thread's.
    /// The latter tells whether the whole body has been read. Must be called on the I/O thread's runtime.
    pub fn new(body: Incoming, shared: &Shared, taken: OnDemandLimit) -> (Self, Arc<AtomicBool>) {
        let (engine, slot, limit) = (shared.engine, shared.slot, shared.max_body);
        let (ask, asked) = oneshot::channel();
        let (deliver, answer) = mpsc::sync_channel(1);
        let whole: Arc<AtomicBool> = Arc::default();
        let done = whole.clone();
        // The site may read after it has begun to answer: this goes on beside the response.
        tokio::spawn(async move {
            let _taken = taken;
            if asked.await.is_ok() {
                let body = spool(body, limit).await;
                done.store(body.is_ok(), Relaxed);
                slot.request_body_bytes.fetch_add(body.as_ref().map_or(0, Spooled::len), Relaxed);
                let _ = deliver.send(body);
            }
        });
        (OnDemand { engine, ask, answer }, whole)
    }

    /// Asks the client for the body and blocks until it is whole.
    pub fn fetch(self) -> Result<Spooled, SpoolError> {
        self.engine.step_aside();
        let gone = || SpoolError::Client("the client has left".into());
        self.ask.send(()).map_err(|()| gone())?;
        self.answer.recv().map_err(|_| gone())?
    }
}

/// Counts the bodies that are read on demand: each may hold an app thread for as long as its client likes, so only some may.
#[derive(Clone)]
pub struct OnDemandLimit(Arc<()>);

impl OnDemandLimit {
    pub fn new() -> Self {
        OnDemandLimit(Arc::new(()))
    }

    /// A place among `limit`, until it is dropped.
    pub fn take(&self, limit: usize) -> Option<Self> {
        (Arc::strong_count(&self.0) <= limit).then(|| self.clone())
    }
}
