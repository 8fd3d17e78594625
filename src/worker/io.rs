//! What a worker does besides requests: it accepts connections, listens to the control socket, drains.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread::JoinHandle;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc as async_mpsc, watch};
use tokio::task::JoinSet;

use crate::control::{AsyncChannel, FromWorker, Launch, ToWorker};
use crate::exit::Code;
use crate::http::accept::{self, Serving};
use crate::http::engine::Engine;
use crate::http::guard::Timeouts;
use crate::http::listener::Listener;
use crate::http::service::Shared;
use crate::metrics::{Scoreboard, State};
use crate::os;

/// What the I/O thread starts with.
pub struct Start {
    pub engine: &'static Engine,
    pub board: Scoreboard,
    pub control: OwnedFd,
    pub listeners: Vec<OwnedFd>,
    pub launch: Launch,
    pub drain: watch::Sender<bool>,
    /// Told when the last request has been answered.
    pub finished: mpsc::Sender<()>,
}

enum Order {
    Say(FromWorker),
    Serve(&'static Shared),
}

/// The I/O thread, as the main thread sees it.
pub struct Io {
    orders: async_mpsc::UnboundedSender<Order>,
    thread: JoinHandle<()>,
}

impl Io {
    /// Sends a message to the supervisor.
    pub fn say(&self, message: FromWorker) {
        let _ = self.orders.send(Order::Say(message));
    }

    /// Begins to accept connections.
    pub fn serve(&self, shared: &'static Shared) {
        let _ = self.orders.send(Order::Serve(shared));
    }

    /// Waits for the I/O thread to end this process.
    pub fn join(self) -> ! {
        let _ = self.thread.join();
        os::exit_now(Code::Software as i32)
    }
}

impl Start {
    pub fn spawn(self) -> std::io::Result<Io> {
        let engine = self.engine;
        let (orders, receiver) = async_mpsc::unbounded_channel();
        engine.spawn(async move {
            if let Err(error) = self.run(receiver).await {
                tracing::error!("the control of this worker failed: {error}");
                os::exit_now(Code::Os as i32);
            }
        });
        let thread = std::thread::Builder::new().name("atrio-io".into()).spawn(move || engine.run())?;
        Ok(Io { orders, thread })
    }

    async fn run(mut self, mut orders: async_mpsc::UnboundedReceiver<Order>) -> std::io::Result<()> {
        let control = AsyncChannel::new(self.control.try_clone()?)?;
        // Signals for the supervisor that reach all processes, as systemd sends them, do not end a worker: it waits for the
        // supervisor's word.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (alive, mut ended) = async_mpsc::channel::<()>(1);
        let (backlog_sender, backlog) = watch::channel(false);
        let mut alive = Some(alive);
        let mut accepting = JoinSet::new();
        let mut serving: Option<&'static Shared> = None;
        loop {
            let drain = tokio::select! {
                Some(order) = orders.recv() => {
                    match order {
                        Order::Say(message) => {
                            control.send(&message, &[])?;
                            if let FromWorker::ImportFailed(error) = message {
                                os::exit_now(error.code as i32);
                            }
                        }
                        Order::Serve(shared) => {
                            let Some(alive) = alive.clone() else { continue };
                            self.start(shared, alive, &backlog, &mut accepting)?;
                            shared.slot.set_state(State::Ready);
                            control.send(&FromWorker::Ready, &[])?;
                            serving = Some(shared);
                        }
                    }
                    None
                }
                message = control.receive() => match message {
                    // The supervisor is gone.
                    Ok(None) | Err(_) => os::exit_now(Code::Software as i32),
                    Ok(Some(ToWorker::Drain { backlog })) => Some(backlog),
                },
                _ = terminate.recv() => {
                    control.send(&FromWorker::Terminated, &[])?;
                    None
                }
                _ = hangup.recv() => None,
                Some(_) = accepting.join_next() => {
                    if accepting.is_empty() {
                        control.send(&FromWorker::Draining, &[])?;
                    }
                    None
                }
                _ = ended.recv(), if alive.is_none() => {
                    self.engine.close();
                    let _ = self.finished.send(());
                    // What is left is Python's farewell; this thread still watches the control socket.
                    while let Ok(Some(ToWorker::Drain { .. })) = control.receive().await {}
                    os::exit_now(Code::Software as i32);
                }
            };
            if let Some(backlog) = drain {
                let Some(shared) = &serving else { os::exit_now(0) };
                shared.slot.set_state(State::Draining);
                backlog_sender.send_replace(backlog);
                self.drain.send_replace(true);
                // The accept loops and connections hold clones: the channel ends with the last of them.
                alive = None;
            }
        }
    }

    fn start(
        &mut self,
        shared: &'static Shared,
        alive: async_mpsc::Sender<()>,
        backlog: &watch::Receiver<bool>,
        accepting: &mut JoinSet<()>,
    ) -> std::io::Result<()> {
        let settings = &self.launch.settings;
        let serving = Serving {
            shared,
            timeouts: Timeouts {
                header: settings.header_timeout,
                body: settings.body_timeout,
                keepalive: settings.keepalive_timeout,
            },
            max_header: settings.max_header,
            max_connections: settings.max_connections,
            trusted: settings.trusted_proxies.clone().into(),
            board: self.board,
            alive,
        };
        for (fd, bound) in self.listeners.drain(..).zip(&self.launch.listeners) {
            let listener = Listener::new(fd, bound)?;
            accepting.spawn(accept::run(listener, serving.clone(), self.drain.subscribe(), backlog.clone()));
        }
        let (engine, patience) = (self.engine, settings.queue_timeout);
        tokio::spawn(async move { engine.look_after(patience).await });
        Ok(())
    }
}
