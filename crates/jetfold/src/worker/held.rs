//! A partition that a worker holds: folded or followed by a task of its own, with what is done beside it.

use super::ask::{self, Answer};
use crate::application::{Application, Input};
use crate::checkpoint::{Checkpoint, Position};
use crate::identity::accept::Acceptance;
use crate::joined::joined;
use crate::log::connections::Connections;
use crate::log::life::Life;
use crate::log::source::{Log, pull_bytes};
use crate::nats::connect::Connection;
use crate::partition::{Duty, Orders, Partition, PartitionError, Shared};
use crate::standing::{Phase, Standing};
use crate::store::{Store, StoreError};
use crate::worker::board::{Board, Shown};
use async_nats::service::Service;
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the owner of a partition repeats what it has committed, for those who have not heard it.
const REPEATED: Duration = Duration::from_secs(1);

/// How long a store of this process may stay open after its partition was let go of: whoever answers a question reads it.
const CLOSING: Duration = Duration::from_secs(10);

/// How soon that is looked at again.
const CLOSED_SOON: Duration = Duration::from_millis(5);

/// The end of a partition's task.
pub type Ended = (u32, Result<(), PartitionError>);

/// What it takes to hold any partition of a worker.
pub struct Holder<A: Application> {
    pub shared: Shared<A>,
    pub connections: Connections,
    /// The partitions that the worker may hold, in order.
    pub slots: Vec<u32>,
    pub worker: String,
    pub life: Arc<Life>,
    /// What the operator accepts, until its partition is held.
    pub accepts: Vec<Acceptance>,
    pub answer: Option<Arc<Answer<A>>>,
    /// What answers are given by.
    pub service: Option<Arc<Service>>,
    pub board: Board,
}

/// A partition that is held.
pub struct Held<A: Application> {
    pub term: u64,
    pub since: Instant,
    pub standing: watch::Receiver<Standing>,
    pub is_refused: watch::Receiver<bool>,
    pub store: Weak<Store<A>>,
    duty: watch::Sender<Duty>,
    stop: CancellationToken,
    stores: watch::Receiver<Arc<Store<A>>>,
    confirmed: watch::Receiver<Option<Checkpoint>>,
    /// Whether somebody follows it.
    followed: watch::Sender<bool>,
    /// What is done beside it, in the order in which it was begun.
    beside: Vec<AbortHandle>,
    listening: Option<AbortHandle>,
}

impl<A: Application> Holder<A> {
    /// The connection that a partition is pulled on, and how many share it.
    fn pulling(&self, partition: u32) -> (&Connection, usize) {
        let place = self.slots.binary_search(&partition).expect("it is one of the worker's");
        self.connections.pulling(place, self.slots.len())
    }

    fn log(&self, partition: u32) -> Log {
        let (pulling, sharing) = self.pulling(partition);
        let max_payload = self.shared.connection.client.server_info().max_payload;
        let bytes = pull_bytes(max_payload, sharing);
        Log::new(pulling.clone(), &self.shared.names, partition, &self.worker, bytes, self.life.clone())
    }

    /// Rises above whoever had this name before, on every log that there is.
    pub async fn rise(&self) -> Vec<u32> {
        let mut logs: Vec<_> = self.slots.iter().map(|partition| (*partition, self.log(*partition))).collect();
        join_all(logs.iter_mut().map(|(_, log)| log.rise())).await;
        logs.into_iter().filter(|(_, log)| log.has_risen()).map(|(partition, _)| partition).collect()
    }

    /// Opens the store of a partition, on a thread that may wait. `before` is the one that was open before, if there was one.
    pub fn opening(
        &self,
        partition: u32,
        before: Option<Weak<Store<A>>>,
    ) -> impl Future<Output = Result<Store<A>, StoreError>> + Send + use<A> {
        let stores = self.shared.stores.clone();
        reopened(before, move || stores.open(partition))
    }

    /// Begins to fold or follow a partition whose store is open.
    pub fn hold(
        &mut self,
        partition: u32,
        store: Store<A>,
        duty: Duty,
        has_risen: bool,
        running: &mut JoinSet<Ended>,
    ) -> Result<Held<A>, StoreError> {
        let store = Arc::new(store);
        let (duty, orders_duty) = watch::channel(duty);
        let (told, orders_told) = watch::channel(None);
        let followed = watch::Sender::new(false);
        let (accepted, orders_accepts) = mpsc::channel(1);
        let followed_too = followed.subscribe();
        let orders = Orders { duty: orders_duty, told: orders_told, followed: followed_too, accepts: orders_accepts };
        let log = self.log(partition);
        let log = if has_risen { log.risen() } else { log };
        let accepts = self.accepts.extract_if(.., |accept| accept.partition == partition).map(|accept| accept.loss);
        let accepts = accepts.collect();
        let weak = Arc::downgrade(&store);
        let folded = Partition::new(partition, &self.shared, store, log, accepts, orders)?;
        let pulling = self.pulling(partition).0.clone();
        self.board.show(partition, Shown { standing: folded.standing(), accepts: accepted, pulling });
        let stop = CancellationToken::new();
        let mut held = Held {
            term: 0,
            since: Instant::now(),
            standing: folded.standing(),
            is_refused: folded.is_refused(),
            store: weak,
            stop: stop.clone(),
            stores: folded.stores(),
            confirmed: folded.confirmed(),
            followed,
            beside: Vec::new(),
            listening: None,
            duty,
        };
        if !held.owns() {
            let (connection, subject) =
                (self.shared.connection.clone(), self.shared.names.committed_subject(partition));
            held.listening = Some(tokio::spawn(listen(connection, subject, told)).abort_handle());
        }
        let last = self.log(partition);
        let (worker, is_leaving) = (self.worker.clone(), self.shared.stopped_at.clone());
        let duty = held.duty.subscribe();
        running.spawn(async move {
            let result = folded.run(stop).await;
            // Who hands over is told of it by its successor; and who stops may come again.
            let is_let_go = is_leaving.get().is_none() && *duty.borrow() != Duty::HandOver;
            if is_let_go {
                last.remove_durable(&worker).await;
            }
            (partition, result)
        });
        Ok(held)
    }

    /// Removes the durable that another worker has on the log of a partition: if it is only paused, it is told so when it wakes.
    pub fn oust(&self, partition: u32, worker: &str) {
        let (log, worker) = (self.log(partition), worker.to_owned());
        tokio::spawn(async move { log.remove_durable(&worker).await });
    }

    /// Begins what an owner does beside folding: it answers, and tells those who follow what it has committed.
    pub fn own(&self, partition: u32, held: &mut Held<A>) {
        let Shared { names, connection, .. } = &self.shared;
        let told = tell(
            connection.clone(),
            names.committed_subject(partition),
            held.confirmed.clone(),
            held.followed.subscribe(),
        );
        held.beside.push(tokio::spawn(told).abort_handle());
        let mut answer = |what: &str, subject, answer| {
            if let Some(service) = self.service.clone() {
                let name = format!("{what}-{partition}");
                let answering = ask::answer(service, name, subject, held.stores.clone(), answer);
                held.beside.push(tokio::spawn(answering).abort_handle());
            }
        };
        if let Some(own) = &self.answer {
            answer("ask", names.ask_subject(partition), own.clone());
        }
        if A::INPUT == Input::Stamped {
            answer("producers", names.producers_subject(partition), Arc::new(ask::last_stamp));
        }
    }

    /// Tells those who follow a partition what was committed last.
    pub async fn last_words(&self, partition: u32, checkpoint: &Checkpoint) {
        let Shared { names, connection, .. } = &self.shared;
        // Whoever has not heard it takes over from where it is.
        connection.client.publish(names.committed_subject(partition), encoded(checkpoint).into()).await.ok();
    }
}

impl<A: Application> Held<A> {
    /// Whether it is folded here, or will be.
    pub fn owns(&self) -> bool {
        matches!(*self.duty.borrow(), Duty::Own { .. })
    }

    pub fn phase(&self) -> Phase {
        self.standing.borrow().phase
    }

    pub fn position(&self) -> Position {
        self.standing.borrow().position
    }

    /// Goes on as the owner. `from`: what the last one has committed, if it has handed it over.
    pub fn take(&mut self, term: u64, from: Option<Position>) {
        self.term = term;
        self.duty.send_replace(Duty::Own { from });
    }

    /// Somebody follows it, or nobody does any more.
    pub fn followed(&self, is_followed: bool) {
        self.followed.send_if_modified(|before| std::mem::replace(before, is_followed) != is_followed);
    }

    /// What an owner tells is of no use any more.
    pub fn listens_no_more(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
    }

    /// Ends as soon as what was folded is committed.
    pub fn hand_over(&self) {
        self.duty.send_replace(Duty::HandOver);
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl<A: Application> Drop for Held<A> {
    fn drop(&mut self) {
        self.beside.iter().chain(&self.listening).for_each(AbortHandle::abort);
    }
}

/// Opens a store; one that was open before once nobody has it any more, and whoever was the last has closed it: until then it is in use,
/// by this process itself.
async fn reopened<S>(
    before: Option<Weak<S>>,
    open: impl Fn() -> Result<S, StoreError> + Clone + Send + 'static,
) -> Result<S, StoreError>
where
    S: Send + 'static,
{
    let until = Instant::now() + CLOSING;
    while before.as_ref().is_some_and(|before| before.strong_count() > 0) && Instant::now() < until {
        tokio::time::sleep(CLOSED_SOON).await;
    }
    loop {
        match joined(tokio::task::spawn_blocking(open.clone()).await) {
            // The count is 0 before the store is closed.
            Err(StoreError::InUse { .. }) if before.is_some() && Instant::now() < until => {
                tokio::time::sleep(CLOSED_SOON).await;
            }
            opened => return opened,
        }
    }
}

fn encoded(checkpoint: &Checkpoint) -> Vec<u8> {
    rmp_serde::to_vec_named(checkpoint).expect("a checkpoint has a MessagePack form")
}

/// Tells what is confirmed, whenever there is more and once a second, while somebody follows.
async fn tell(
    connection: Connection,
    subject: String,
    mut confirmed: watch::Receiver<Option<Checkpoint>>,
    mut followed: watch::Receiver<bool>,
) {
    let mut repeated = interval(REPEATED);
    repeated.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        if followed.wait_for(|followed| *followed).await.is_err() {
            return;
        }
        let told = *confirmed.borrow_and_update();
        if let Some(told) = told {
            connection.client.publish(subject.clone(), encoded(&told).into()).await.ok();
        }
        tokio::select! {
            changed = confirmed.changed() => if changed.is_err() { return },
            changed = followed.changed() => if changed.is_err() { return },
            _ = repeated.tick() => {}
        }
    }
}

/// Hears what the owner has committed.
async fn listen(connection: Connection, subject: String, told: watch::Sender<Option<Checkpoint>>) {
    let mut said = match connection.client.subscribe(subject).await {
        Ok(said) => said,
        Err(error) => return tracing::warn!(%error, "nobody can be followed: what owners commit is not heard"),
    };
    while let Some(message) = said.next().await {
        // What is no checkpoint comes from somebody else.
        if let Ok(checkpoint) = rmp_serde::from_slice::<Checkpoint>(&message.payload) {
            told.send_replace(Some(checkpoint));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Words;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn in_use() -> StoreError {
        StoreError::InUse { path: "chunks-0.redb".into(), words: &Words::DEFAULT }
    }

    /// A store that is in use at the first two tries, and how often it was tried.
    fn closing() -> (Arc<AtomicU32>, impl Fn() -> Result<u32, StoreError> + Clone + Send + 'static) {
        let tries = Arc::new(AtomicU32::new(0));
        let counted = tries.clone();
        (tries, move || match counted.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => Err(in_use()),
            tries => Ok(tries),
        })
    }

    #[tokio::test]
    async fn a_store_that_this_process_is_closing_still_is_opened_once_it_has() {
        let (_, open) = closing();
        // Nobody has it any more.
        assert_eq!(reopened(Some(Weak::new()), open).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_store_that_another_process_has_is_not_waited_for() {
        let (tries, open) = closing();
        assert!(matches!(reopened(None, open).await, Err(StoreError::InUse { .. })));
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_store_that_is_read_still_is_not_tried_before_that_is_over() {
        let (tries, open) = closing();
        let held = Arc::new(0);
        let opening = tokio::spawn(reopened(Some(Arc::downgrade(&held)), open));
        tokio::time::sleep(CLOSED_SOON * 4).await;
        assert_eq!(tries.load(Ordering::Relaxed), 0);
        drop(held);
        assert_eq!(opening.await.unwrap().unwrap(), 2);
    }
}
