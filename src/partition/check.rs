//! The checks of one transaction before it is committed: effects that were confirmed are still there, and the log still
//! reaches the position.
//!
//! As a rule that is one question each to `sums` and the log, and the furthest message of the transaction read back. Where
//! a [sign](Sign) says that a stream may have forgotten, every effect of the transaction is read back; where one is gone,
//! the transaction is dropped, and folded and published again.

use crate::bus::backoff;
use crate::bus::connect::Connection;
use crate::bus::finals::{Effects, Found, Kind, ReadBack};
use crate::bus::log::LogReader;
use crate::bus::read::{self, NoAnswer};
use crate::checkpoint::{Checkpoint, Mark};
use crate::doubt::{Leader, Place, Sign, Trail};
use crate::identity::{Verdict, judge, judge_before_commit, judge_mark};
use crate::partition::committer::CommitError;
use crate::stream_id::StreamId;
use crate::sum::Sum;
use crate::summer::Summer;
use crate::throttle::ThrottleByCause;
use crate::transaction::Transaction;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::fmt;
use std::sync::Arc;

/// Effects that are read back at once.
const WINDOW: usize = 256;

/// How often all effects are read back because the leader changed meanwhile, before they are folded again.
const MOST_ROUNDS: usize = 3;

/// What all partitions of a process meet at once is said once.
static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();
static DOUBTS: ThrottleByCause = ThrottleByCause::new();

/// Who leads the streams of a partition, as far as they have said.
#[derive(Clone, Debug, Default)]
pub struct Leaders {
    pub sums: Option<Leader>,
    pub rejects: Option<Leader>,
    pub log: Option<Leader>,
}

impl Leaders {
    fn of(&self, kind: Kind) -> &Option<Leader> {
        match kind {
            Kind::Sums => &self.sums,
            Kind::Rejects => &self.rejects,
        }
    }
}

/// Asks each stream once: whoever does not answer is not known.
pub async fn leaders(effects: &Effects, log: &LogReader) -> Leaders {
    let (sums, rejects, log) = tokio::join!(effects.leader(Kind::Sums), effects.leader(Kind::Rejects), log.leader());
    let known = |leader: Result<Option<Leader>, NoAnswer>| leader.ok().flatten();
    Leaders { sums: known(sums), rejects: known(rejects), log: known(log) }
}

/// What a transaction is committed with.
pub struct Sound {
    pub sums: Option<Mark>,
    pub rejects: Option<Mark>,
    pub leaders: Leaders,
}

pub struct Check {
    pub connection: Connection,
    pub log: LogReader,
    pub effects: Arc<Effects>,
    /// How often the connection had been made when the transaction was opened.
    pub connects: u64,
    /// Finals that contradict others, and were let pass.
    pub conflicting: u64,
    pub finals: Trail<StreamId>,
    pub rejects: Trail<String>,
    pub reject_subjects: Vec<String>,
    /// Who led the streams before.
    pub known: Leaders,
}

/// What is read back of one stream where all of it is in doubt.
enum Effect<'a> {
    Final(Sum),
    Reject(&'a str),
}

impl Check {
    /// Waits for answers as long as it takes: without them nothing is committed.
    pub async fn run(mut self, transaction: &Transaction<Summer>, before: &Checkpoint) -> Result<Sound, CommitError> {
        // A connection that is lost during the check is a sign as well.
        let mut connects = self.connects;
        loop {
            let now = *self.connection.connects().borrow();
            if now != connects {
                self.finals.doubt(Sign::Reconnected);
                self.rejects.doubt(Sign::Reconnected);
            }
            connects = now;
            let sound = self.see(transaction, before).await?;
            if *self.connection.connects().borrow() == connects {
                return Ok(sound);
            }
        }
    }

    async fn see(&self, transaction: &Transaction<Summer>, before: &Checkpoint) -> Result<Sound, CommitError> {
        let finals = self.finals.furthest().map(|place| self.of_final(place));
        let witnesses = self.finals.witnesses().iter().map(|place| self.of_final(place)).collect();
        let (sums, sums_leader) = self.stream(Kind::Sums, finals, witnesses, before.sums, transaction).await?;
        let rejects = self.rejects.furthest().cloned();
        let witnesses = self.rejects.witnesses().to_vec();
        let (rejects, rejects_leader) =
            self.stream(Kind::Rejects, rejects, witnesses, before.rejects, transaction).await?;
        let log = self.log_reaches(&transaction.checkpoint).await?;
        let leaders = Leaders { sums: sums_leader, rejects: rejects_leader, log: Some(log) };
        Ok(Sound { sums, rejects, leaders })
    }

    fn of_final(&self, place: &Place<StreamId>) -> Place<String> {
        Place { sequence: place.sequence, key: self.effects.final_subject(place.key) }
    }

    /// Sees that what one stream has confirmed is there: its mark from now on, and who leads it.
    async fn stream(
        &self,
        kind: Kind,
        furthest: Option<Place<String>>,
        witnesses: Vec<Place<String>>,
        before: Option<Mark>,
        transaction: &Transaction<Summer>,
    ) -> Result<(Option<Mark>, Option<Leader>), CommitError> {
        let Some(mut furthest) = furthest else { return Ok((before, self.known.of(kind).clone())) };
        let (mut mark, mut leader) = self.there(kind, &furthest).await?;
        let sign = match kind {
            Kind::Sums => self.finals.sign(&leader),
            Kind::Rejects => self.rejects.sign(&leader),
        };
        match sign {
            None => {
                for witness in &witnesses {
                    self.there(kind, witness).await?;
                }
            }
            Some(sign) => {
                for round in 0.. {
                    if round == MOST_ROUNDS {
                        return Err(CommitError::Doubt("leaders are elected again and again".to_owned()));
                    }
                    if let Some(times) = DOUBTS.count(&format!("{kind} {sign}")) {
                        tracing::warn!(
                            log = self.log.name(), position = transaction.checkpoint.position, %sign, times,
                            "{kind} may have forgotten what it has confirmed: reading back all of this transaction"
                        );
                    }
                    furthest = self.read_back(kind, transaction).await?.unwrap_or(furthest);
                    let before = leader;
                    (mark, leader) = self.there(kind, &furthest).await?;
                    if leader == before {
                        break;
                    }
                }
            }
        }
        if let (Some(before), Some(_)) = (before, mark) {
            self.recorded(kind, &before).await?;
        }
        Ok((Mark::further(before, mark), Some(leader)))
    }

    /// Sees that a message is where it was confirmed: its mark, unless it has aged out, and who leads its stream.
    async fn there(&self, kind: Kind, place: &Place<String>) -> Result<(Option<Mark>, Leader), CommitError> {
        let Place { sequence, key: subject } = place;
        let mut doubted = false;
        for pause in backoff::reopening() {
            let look = || self.effects.look(kind, *sequence, subject);
            let (found, leader) = self.answered(kind, look).await.ok_or_else(|| gone(kind))?;
            match found {
                Found::There(mark) => return Ok((Some(mark), leader)),
                Found::Expired => return Ok((None, leader)),
                Found::Forgotten if doubted => {
                    tracing::error!(
                        log = self.log.name(),
                        sequence,
                        subject,
                        "{kind} has lost a message that it acknowledged: folding and publishing again from the checkpoint"
                    );
                    return Err(CommitError::Doubt(format!("{kind} has forgotten a message")));
                }
                Found::Forgotten => doubted = true,
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }

    /// Sees that the furthest message of the transactions before is there, before it is replaced by a further one.
    async fn recorded(&self, kind: Kind, before: &Mark) -> Result<(), CommitError> {
        let reading = self.answered(kind, || self.effects.mark_reading(kind, before)).await;
        let reading = reading.ok_or_else(|| gone(kind))?;
        judge_mark(before, &reading).map_err(|forgot| CommitError::Doubt(kind.forgot(forgot).to_string()))
    }

    /// Reads back every effect of the transaction that one stream has confirmed: the furthest of them.
    async fn read_back(
        &self,
        kind: Kind,
        transaction: &Transaction<Summer>,
    ) -> Result<Option<Place<String>>, CommitError> {
        let effects: Vec<Effect<'_>> = match kind {
            Kind::Rejects => self.reject_subjects.iter().map(|subject| Effect::Reject(subject)).collect(),
            Kind::Sums => {
                transaction.rows.iter().filter_map(|(id, row)| row.final_sum(*id)).map(Effect::Final).collect()
            }
        };
        // A stream may have ended, expired, and begun anew within one transaction: its row does not tell any more.
        if kind == Kind::Sums && effects.len() as u64 != transaction.tally.own.completed {
            return Err(CommitError::Doubt("not all of its finals can be told from its rows".to_owned()));
        }
        let mut effects = effects.into_iter();
        let mut finding = FuturesUnordered::new();
        let (mut furthest, mut others) = (None, 0);
        loop {
            finding.extend(effects.by_ref().take(WINDOW - finding.len()).map(|effect| self.find(effect)));
            match finding.next().await {
                Some(Ok(Some(place))) => furthest = furthest.max(Some(place)),
                Some(Ok(None)) => others += 1,
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        if others > self.conflicting {
            return Err(CommitError::Doubt("a final is not the one that was confirmed".to_owned()));
        }
        Ok(furthest)
    }

    /// Where an effect is; `None` where another is in its place. A leader that is new may miss at first what it has.
    async fn find(&self, effect: Effect<'_>) -> Result<Option<Place<String>>, CommitError> {
        let (kind, subject) = match &effect {
            Effect::Final(sum) => (Kind::Sums, self.effects.final_subject(sum.id)),
            Effect::Reject(subject) => (Kind::Rejects, (*subject).to_owned()),
        };
        let mut missed = false;
        for pause in backoff::reopening() {
            let found = match &effect {
                Effect::Final(sum) => self.answered(kind, || self.effects.read_final(*sum)).await,
                Effect::Reject(subject) => self.answered(kind, || self.effects.read_reject(subject)).await,
            };
            match found {
                ReadBack::Same(sequence) => return Ok(Some(Place { sequence, key: subject })),
                ReadBack::Another => return Ok(None),
                ReadBack::Nothing if missed => {
                    tracing::error!(
                        log = self.log.name(),
                        subject,
                        "{kind} has lost a message that it acknowledged: folding and publishing again from the checkpoint"
                    );
                    return Err(CommitError::Doubt(format!("{kind} has forgotten a message")));
                }
                ReadBack::Nothing => missed = true,
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }

    /// Sees that the log still reaches the position, and who leads it. The message there is only read where the answer
    /// leaves it open: it is a whole batch.
    async fn log_reaches(&self, checkpoint: &Checkpoint) -> Result<Leader, CommitError> {
        let doubt = |verdict: Verdict| CommitError::Doubt(verdict.to_string());
        let no_log = || CommitError::Doubt("there is no such stream".to_owned());
        let (jetstream, name) = (self.log.jetstream(), self.log.name());
        let info = self.answered("the log", || read::stream(jetstream, name)).await.ok_or_else(no_log)?;
        let leader = read::leader(&info);
        let told = judge_before_commit(checkpoint, &read::log_state(&info)).map_err(doubt)?;
        if !told || self.known.log.as_ref() != Some(&leader) {
            let reading = self.answered("the log", || self.log.reading(checkpoint, None)).await.ok_or_else(no_log)?;
            judge(checkpoint, &reading).map_err(doubt)?;
        }
        Ok(leader)
    }

    /// Asks until there is an answer.
    async fn answered<T, F: Future<Output = Result<T, NoAnswer>>>(
        &self,
        whom: impl fmt::Display,
        ask: impl Fn() -> F,
    ) -> T {
        for pause in backoff::reopening() {
            match ask().await {
                Ok(answer) => return answer,
                Err(cause) => {
                    if let Some(times) = COMPLAINTS.count(&cause.to_string()) {
                        let log = self.log.name();
                        tracing::warn!(log, %cause, times, "no answer from {whom}: nothing is committed until it comes");
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the pauses never end")
    }
}

fn gone(kind: Kind) -> CommitError {
    CommitError::Doubt(format!("there is no stream {kind}"))
}
