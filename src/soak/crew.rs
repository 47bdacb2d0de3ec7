//! `Crew`: the processes of a soak. One task has them, keeps them running, and does to them what it is told.

use crate::local::up::children::{ChildError, Children};
use nix::sys::signal::Signal;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a process that is told to end may take, before it is killed: a server that lets its clients go takes 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

enum Order {
    Hold { name: String, by: Signal, ended: oneshot::Sender<Option<String>> },
    Release { name: String, started: oneshot::Sender<Result<Option<u32>, ChildError>> },
    Signal { name: String, by: Signal },
    Pid { name: String, pid: oneshot::Sender<Option<u32>> },
}

/// Whoever is told does it in turn; nothing is done once the crew is gone.
#[derive(Clone)]
pub struct Crew(mpsc::Sender<Order>);

/// What the crew is told.
pub struct Orders(mpsc::Receiver<Order>);

impl Crew {
    pub fn new() -> (Self, Orders) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(sender), Orders(receiver))
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.0.send(order(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Ends a process by a signal, and keeps it so. How it has ended; `None` if it did not run.
    pub async fn hold(&self, name: &str, by: Signal) -> Option<String> {
        self.ask(|ended| Order::Hold { name: name.to_owned(), by, ended }).await.flatten()
    }

    /// Starts one again that was held: its number.
    pub async fn release(&self, name: &str) -> Result<Option<u32>, ChildError> {
        self.ask(|started| Order::Release { name: name.to_owned(), started }).await.unwrap_or(Ok(None))
    }

    pub async fn signal(&self, name: &str, by: Signal) {
        self.0.send(Order::Signal { name: name.to_owned(), by }).await.ok();
    }

    /// The number of a process, while it runs.
    pub async fn pid(&self, name: &str) -> Option<u32> {
        self.ask(|pid| Order::Pid { name: name.to_owned(), pid }).await.flatten()
    }
}

impl Orders {
    /// Keeps the processes running, and does what it is told, until it is over, or can't go on: then why. An order that was begun is carried
    /// out, so it must not be dropped meanwhile.
    pub async fn carry_out(&mut self, children: &mut Children, over: &CancellationToken) -> Option<ChildError> {
        loop {
            let order = tokio::select! {
                biased;
                () = over.cancelled() => return None,
                error = children.supervise() => return Some(error),
                Some(order) = self.0.recv() => order,
            };
            match order {
                Order::Hold { name, by, ended } => _ = ended.send(children.hold(&name, by, PATIENCE).await),
                Order::Release { name, started } => _ = started.send(children.release(&name)),
                Order::Signal { name, by } => _ = children.signal(&name, by),
                Order::Pid { name, pid } => _ = pid.send(children.pid(&name)),
            }
        }
    }
}
