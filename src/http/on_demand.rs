//! The body of a request with `Expect: 100-continue` (RFC 9110 section 10.1.1).

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::engine::Engine;
use super::job::RequestBody;
use super::service::Shared;
use super::spool::{SpoolError, receive};

/// The body of a request with `Expect: 100-continue`: it is asked for when the site first reads, not before.
pub struct OnDemand {
    engine: &'static Engine,
    ask: oneshot::Sender<()>,
    answer: mpsc::Receiver<Result<RequestBody, SpoolError>>,
}

impl OnDemand {
    /// The site's end, and the I/O thread's.
    /// The latter tells whether the whole body was, or will be, read. Must be called on the I/O thread's runtime.
    pub fn new(body: Incoming, shared: &'static Shared, place: OwnedSemaphorePermit) -> (Self, Arc<AtomicBool>) {
        let (ask, asked) = oneshot::channel();
        let (deliver, answer) = mpsc::sync_channel(1);
        let whole: Arc<AtomicBool> = Arc::default();
        let done = whole.clone();
        // The site may read after it has begun to answer: this goes on beside the response.
        tokio::spawn(async move {
            if asked.await.is_ok() {
                let body = receive(body, shared, Instant::now(), Some(place)).await;
                done.store(body.is_ok(), Relaxed);
                let _ = deliver.send(body);
            }
        });
        (OnDemand { engine: shared.engine, ask, answer }, whole)
    }

    /// Asks the client for the body and blocks until it can be read.
    pub fn fetch(self) -> Result<RequestBody, SpoolError> {
        self.engine.step_aside();
        let gone = || SpoolError::Client("the client has left".into());
        self.ask.send(()).map_err(|()| gone())?;
        self.answer.recv().map_err(|_| gone())?
    }
}
