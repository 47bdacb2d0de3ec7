//! Tasks that take turns: each runs until it waits for its next turn, and the scheduler gives turns one by one.

use super::world::World;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

pub type Shared = Rc<RefCell<World>>;

/// Something that goes on turn by turn.
pub struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    /// It is not to be given a turn before.
    pub asleep_until: Rc<Cell<u64>>,
}

impl Task {
    pub fn new(future: impl Future<Output = ()> + 'static, asleep_until: Rc<Cell<u64>>) -> Self {
        Self { future: Box::pin(future), asleep_until }
    }

    /// Gives it a turn; whether it has come to its end.
    pub fn turn(&mut self) -> bool {
        self.future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

/// Waits for the next turn.
pub async fn turn() {
    let mut is_first = true;
    poll_fn(|_| if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }).await;
}
