//! What a run asks leaders of its finals, until they answer.

use crate::run::claimed::Claimed;
use crate::run::ledger::{BatchPlace, Copies, Final};
use crate::run::may_send::Look;
use crate::run::run_finals::RunFinals;
use crate::run::workload::Workload;
use crate::sum::running::Sum;
use crate::sum::stream_id::StreamId;
use futures_util::future::{BoxFuture, FutureExt};
use jetfold::Throttle;
use jetfold::UnixNanos;
use jetfold::joined;
use jetfold::nats::retry::Pauses;
use std::sync::Arc;

/// A question to a leader, answered.
pub(super) enum Answer {
    Copies(StreamId, Copies),
    Overdue(StreamId, Option<Final>),
    Closing(BatchPlace, Option<UnixNanos>),
    Computed(Final, Sum),
    Superseded(bool, Look),
}

/// A question to a leader.
pub(super) enum Question {
    /// How many finals a stream has.
    Copies(StreamId),
    /// The final of a stream that is overdue.
    Overdue(StreamId),
    /// When a batch with closing chunks was stored.
    Closing(BatchPlace),
    /// What the final of a stream must say: nobody is asked, and it may take long.
    Computed(StreamId, Final, Workload),
    /// Whether another life has claimed the run.
    Superseded(Box<Claimed>),
}

/// Asks the leader until it answers.
pub(super) fn ask(finals: RunFinals, question: Question, complaints: Arc<Throttle>) -> BoxFuture<'static, Answer> {
    async move {
        let mut pauses = Pauses::reopening();
        loop {
            let answer = match &question {
                Question::Copies(id) => finals.copies(*id).await.map(|copies| Answer::Copies(*id, copies)),
                Question::Overdue(id) => finals.last(*id).await.map(|found| Answer::Overdue(*id, found)),
                Question::Closing(batch) => finals.stored_at(*batch).await.map(|at| Answer::Closing(*batch, at)),
                Question::Computed(id, found, workload) => {
                    let (id, found, workload) = (*id, *found, *workload);
                    let computed = tokio::task::spawn_blocking(move || workload.expected(id)).await;
                    Ok(Answer::Computed(found, joined(computed)))
                }
                Question::Superseded(claimed) => claimed.look().await.map(|(is, look)| Answer::Superseded(is, look)),
            };
            match answer {
                Ok(answer) => return answer,
                Err(cause) if complaints.is_due() => {
                    tracing::warn!(%cause, "no answer about a final: asking again")
                }
                Err(_) => {}
            }
            pauses.wait().await;
        }
    }
    .boxed()
}
