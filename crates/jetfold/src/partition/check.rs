//! The questions of an [inspection](crate::commit::inspection), asked of the leaders until they answer: without that nothing is
//! committed.

use crate::application::Application;
use crate::commit::doubt::{Leader, Leaders};
use crate::commit::effect::Kind;
use crate::commit::inspection::{Asked, Inspection, Question, Reply, Sound, Step, Unsound};
use crate::effects::Effects;
use crate::log::reader::LogReader;
use crate::nats::connect::Connection;
use crate::nats::read::{self, NoAnswer};
use crate::nats::retry::Pauses;
use crate::throttle::ThrottleByCause;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::sync::Arc;

/// What all partitions of a process meet at once is said once.
static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();
static DOUBTS: ThrottleByCause = ThrottleByCause::new();

/// Asks each stream once: whoever does not answer is not known.
pub async fn leaders<A: Application>(effects: &Effects<A>, log: &LogReader) -> Leaders {
    let (outputs, rejects, log) =
        tokio::join!(effects.leader(Kind::Outputs), effects.leader(Kind::Rejects), log.leader());
    let known = |leader: Result<Option<Leader>, NoAnswer>| leader.ok().flatten();
    Leaders { outputs: known(outputs), rejects: known(rejects), log: known(log) }
}

pub struct Check<A: Application> {
    pub connection: Connection,
    pub log: LogReader,
    pub effects: Arc<Effects<A>>,
}

impl<A: Application> Check<A> {
    /// Sees an inspection to its end, as long as it takes.
    pub async fn run(self, mut inspection: Inspection<A>) -> Result<Sound<A>, Unsound<A::Output>> {
        let connects = self.connection.connects();
        let mut asking = FuturesUnordered::new();
        loop {
            if inspection.connected(*connects.borrow()) {
                asking.clear();
            }
            match inspection.next_step() {
                Some(Step::Ask(asked)) => asking.push(self.ask(asked)),
                Some(Step::Doubted(kind, sign)) => {
                    let stream = kind.said(&A::WORDS);
                    if let Some(times) = DOUBTS.count(&format!("{stream} {sign}")) {
                        tracing::warn!(
                            log = self.log.name(), position = inspection.position(), %sign, times,
                            "{stream} may have forgotten what it has confirmed: reading back all of this transaction"
                        );
                    }
                }
                Some(Step::End(found)) => return found.inspect_err(|unsound| self.say_what_is_lost(unsound)),
                None => {
                    let (asked, reply) = asking.next().await.expect("an inspection waits for replies alone");
                    inspection.replied(asked, reply);
                }
            }
        }
    }

    async fn ask(&self, asked: Asked<A::Output>) -> (Asked<A::Output>, Reply) {
        if asked.again {
            Pauses::reopening().wait().await;
        }
        let (effects, log) = (&self.effects, &self.log);
        let reply = match &asked.question {
            Question::Look(place) => {
                let (kind, subject) = (place.key.kind(), effects.subject(&place.key));
                Reply::Look(self.answered(kind.said(&A::WORDS), || effects.look(kind, place.sequence, &subject)).await)
            }
            Question::Mark(kind, mark) => {
                Reply::Mark(self.answered(kind.said(&A::WORDS), || effects.mark_reading(*kind, mark)).await)
            }
            Question::Output(output) => {
                Reply::ReadBack(self.answered(A::WORDS.outputs, || effects.read_output(output)).await)
            }
            Question::Reject(subject) => {
                Reply::ReadBack(self.answered(A::WORDS.rejects, || effects.read_reject(subject)).await)
            }
            Question::LogState => {
                let info = self.answered("the log", || read::stream(log.jetstream(), log.name())).await;
                Reply::LogState(info.map(|info| (read::log_state(&info), read::leader(&info))))
            }
            Question::LogMessage(next) => Reply::LogMessage(self.answered("the log", || log.reading(next, None)).await),
        };
        (asked, reply)
    }

    fn say_what_is_lost(&self, unsound: &Unsound<A::Output>) {
        if let Unsound::Forgotten { subject, sequence } = unsound {
            tracing::error!(
                log = self.log.name(),
                sequence,
                subject = self.effects.subject(subject),
                "{} has lost a message that it acknowledged: folding and publishing again from the checkpoint",
                subject.kind().said(&A::WORDS)
            );
        }
    }

    /// Asks until there is an answer.
    async fn answered<T, F: Future<Output = Result<T, NoAnswer>>>(&self, whom: &str, ask: impl Fn() -> F) -> T {
        let mut pauses = Pauses::reopening();
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(cause) => {
                    if let Some(times) = COMPLAINTS.count(&cause.to_string()) {
                        let log = self.log.name();
                        tracing::warn!(log, %cause, times, "no answer from {whom}: nothing is committed until it comes");
                    }
                }
            }
            pauses.wait().await;
        }
    }
}
