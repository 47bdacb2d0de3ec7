//! Opening a log: is it what it was, from where does the fold go on, and what can be done if it can't.

use crate::application::Application;
use crate::archive::restore::{self, Furthest, RestoreError, Trust};
use crate::checkpoint::{Checkpoint, Position};
use crate::commit::effect::{Found, Kind, Subject};
use crate::effects::Effects;
use crate::identity::accept::Accepted;
use crate::identity::doubt::{Ruling, STANDS};
use crate::identity::{Forgot, LogReading, LogState, Verdict, is_deleted, is_unproven, judge, judge_mark, rfc3339};
use crate::log::reader::LogReader;
use crate::log::source::{OpenError, Opened};
use crate::partition::committed::Committed;
use crate::partition::committer::{Committer, QUEUED_BATCHES};
use crate::partition::follow::Following;
use crate::partition::republish;
use crate::partition::session::{IDENTITY_CHECK, Parts, Session};
use crate::partition::{Partition, PartitionError};
use crate::standing::Phase;
use crate::store::StoreError;
use crate::table::Table;
use crate::time::UnixNanos;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// After this many sessions without a commit, the next few batches are read one by one instead of pulled: one of them
/// may be what ends the connection.
pub(super) const MOST_FRUITLESS: u32 = 3;

/// Why a log that begins right behind the store is not opened before snapshots were looked for.
pub(super) const UNPROVEN: &str =
    "the message that was folded last is not kept any more: looking for a further snapshot";

impl<A: Application> Partition<A> {
    /// Judges the log, and opens it at the checkpoint. The inner error is a reason to try again.
    pub(super) async fn open(&mut self) -> Result<Result<Session<A>, String>, PartitionError> {
        let mut checkpoint = match self.begun().await? {
            Ok(Some(checkpoint)) => checkpoint,
            Ok(None) => match self.log.reader().state().await {
                Ok(Some(state)) => {
                    let checkpoint = Checkpoint::start_of(state.created);
                    match self.doubt.others() {
                        None => {
                            self.store.begin(&checkpoint)?;
                            checkpoint
                        }
                        // An empty store must not hide what one with its disk would refuse.
                        Some(verdict) => match self.found(verdict, &checkpoint, &state).await? {
                            Ok(checkpoint) => checkpoint,
                            Err(why) => return Ok(Err(why)),
                        },
                    }
                }
                Ok(None) => return self.gone().map(Err),
                Err(cause) => return Ok(Err(cause.to_string())),
            },
            Err(why) => return Ok(Err(why)),
        };
        let expected = self.doubt.expected(checkpoint.position);
        let reading = match self.log.reader().reading(&checkpoint, Some(expected)).await {
            Err(cause) => return Ok(Err(cause.to_string())),
            Ok(None) => return self.gone().map(Err),
            Ok(Some(reading)) => reading,
        };
        let judged = judge(&checkpoint, &reading);
        if matches!(judged, Ok(()) | Err(Verdict::LogHole { .. })) {
            self.note_deleted(&checkpoint, &reading);
            // Whatever else there is about it: what is committed is of the log as it is called by now.
            if checkpoint.log_created != reading.state.created {
                checkpoint = self.brought_back(&checkpoint, &reading.state)?;
            }
        }
        if judged.is_ok() && is_unproven(&checkpoint, &reading) && self.doubt.unproven(checkpoint.position) {
            return Ok(Err(UNPROVEN.to_owned()));
        }
        // Where messages are missing further on, what lies before them is folded first: what is out has to be right for that.
        let judged = match judged {
            Err(verdict) if !verdict.is_further_on(checkpoint.position) => Err(verdict),
            judged => match self.judge_effects(&checkpoint).await {
                Ok(effects) => effects.and(judged),
                Err(why) => return Ok(Err(why)),
            },
        };
        match judged {
            Ok(()) => self.doubt.sound(),
            Err(verdict) => match self.found(verdict, &checkpoint, &reading.state).await? {
                Ok(mended) => checkpoint = mended,
                Err(why) => return Ok(Err(why)),
            },
        }
        let one_by_one = self.fruitless >= MOST_FRUITLESS;
        let (source, refolding) = if one_by_one {
            (self.log.open_one_by_one(checkpoint.position, self.careful), 0)
        } else {
            match self.log.open(checkpoint.position).await {
                Ok(Opened { source, sent_before }) => {
                    (source, sent_before.map_or(0, |sent| sent.saturating_sub(checkpoint.position)))
                }
                Err(OpenError::Superseded) => {
                    return Err(PartitionError::Superseded { partition: self.partition, words: &A::WORDS });
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
        };
        tracing::info!(log = self.log.name(), position = checkpoint.position, refolding, "opened the log");
        let (size, row_bytes) = (self.store.size()?, self.stores.row_bytes());
        let table = Table::over(self.application.clone(), self.share(), row_bytes, checkpoint, &self.store)?;
        let committed = Committed { transaction: 0, checkpoint, size, expired: Arc::default() };
        let (opened_at, open_bytes) = (Instant::now(), 0);
        let check_at = opened_at + IDENTITY_CHECK;
        Ok(Ok(self.begin(committed, Parts { table, source, one_by_one, check_at, open_bytes, opened_at })))
    }

    /// Goes on as the owner of what was followed: the log was judged when that began, and its source has not been lost since. The
    /// streams of outputs and rejects are looked at right away, beside folding; nothing is committed that they have forgotten.
    pub(super) fn promote(&mut self, following: Following<A>) -> Session<A> {
        let committed = following.committed();
        let Following { table, source, open_bytes, opened_at, .. } = following;
        tracing::info!(log = self.log.name(), position = table.position(), "going on as the owner of the log");
        let check_at = Instant::now();
        self.begin(committed, Parts { table, source, one_by_one: false, check_at, open_bytes, opened_at })
    }

    /// Begins a session behind what is committed.
    fn begin(&mut self, at: Committed<A>, parts: Parts<A>) -> Session<A> {
        self.counted.opened();
        self.accepts_no_more();
        self.show(Phase::Owns, &at.checkpoint, at.size);
        self.changed.notify_one();
        let (work, queue) = mpsc::channel(QUEUED_BATCHES);
        let effects = self.effects(&at.checkpoint);
        self.confirmed.send_replace(Some(at.checkpoint));
        let (committed_tx, committed) = watch::channel(at);
        let cancel = CancellationToken::new();
        let committer = Committer {
            connection: self.connection.clone(),
            log: LogReader::new(self.connection.clone(), &self.names, self.partition),
            effects: Arc::new(effects),
            store: self.store.clone(),
            halt: self.config.halt,
            counted: self.counted.clone(),
            committed: committed_tx,
            confirmed: self.confirmed.clone(),
            application: self.application.clone(),
            looked_at: None,
        };
        let Parts { table, source, one_by_one, check_at, open_bytes, opened_at } = parts;
        Session {
            table,
            source,
            one_by_one,
            work,
            committed,
            committer: tokio::spawn(committer.run(queue, cancel.clone())),
            cancel,
            check_at,
            open_bytes,
            opened_at,
            sealed: None,
            skipped: None,
        }
    }

    /// Where the store stands; `None` if it has not begun, or has folded nothing of a log that was made anew since. The
    /// inner error is a reason to try again.
    pub(super) async fn begun(&self) -> Result<Result<Option<Checkpoint>, String>, PartitionError> {
        let Some(checkpoint) = self.store.checkpoint()? else { return Ok(Ok(None)) };
        if checkpoint.position > 0 || !self.store.accepted()?.is_empty() {
            return Ok(Ok(Some(checkpoint)));
        }
        Ok(match self.log.reader().state().await {
            Ok(Some(state)) if state.created != checkpoint.log_created => {
                let log = self.log.name();
                tracing::warn!(
                    log,
                    "the log was made anew before anything of it was committed here: beginning with the new one"
                );
                Ok(None)
            }
            Ok(_) => Ok(Some(checkpoint)),
            Err(cause) => Err(cause.to_string()),
        })
    }

    /// Says once that the message at the position was deleted after it was folded.
    pub(super) fn note_deleted(&self, checkpoint: &Checkpoint, reading: &LogReading) {
        let position = checkpoint.position;
        if is_deleted(checkpoint, reading) && self.deleted_at.swap(position, Ordering::Relaxed) != position {
            tracing::warn!(
                log = self.log.name(),
                position,
                "the last message that was folded is deleted from the log: going on, since it was folded before"
            );
        }
    }

    /// The log was brought back from a backup, and holds what was folded: goes on with it.
    pub(super) fn brought_back(&self, checkpoint: &Checkpoint, state: &LogState) -> Result<Checkpoint, StoreError> {
        let after = Checkpoint { log_created: state.created, ..*checkpoint };
        self.store.begin(&after)?;
        tracing::warn!(
            log = self.log.name(),
            position = after.position,
            created = rfc3339(state.created),
            "the log was brought back from a backup, and holds what was folded of it: going on"
        );
        Ok(after)
    }

    /// Puts the furthest snapshot beyond a position in the store's place, if there is one and it may be. The inner
    /// error is a reason to try again.
    pub(super) async fn restore(&mut self, beyond: Position) -> Result<Result<(), String>, PartitionError> {
        let mut trust = Trust::Any;
        let own = match self.begun().await? {
            Ok(own) => own,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(own) = own {
            match self.log.reader().reading(&own, None).await {
                Ok(Some(reading)) => match judge(&own, &reading) {
                    // Of the log's own snapshots each is better, for the log has the message that it was folded from.
                    Ok(()) if is_unproven(&own, &reading) => {}
                    // As good a fold as any: only one of the very same history may take its place.
                    Ok(()) => trust = Trust::SameHistory(self.store.accepted()?),
                    Err(Verdict::LogTruncated { .. }) => {}
                    // A store of another log, or of what this one was, is not put aside without being asked.
                    Err(_) => return Ok(Ok(())),
                },
                Ok(None) => return Ok(Ok(())),
                Err(cause) => return Ok(Err(cause.to_string())),
            }
        }
        let (store, owner, log, snapshots) = (&self.store, &self.owner, self.log.reader(), &self.snapshots);
        let (meters, standing) = (self.counted.meters.clone(), self.standing.clone());
        let told: Arc<restore::Told> = Arc::new(move |rows, of| {
            meters.restore_left(of.saturating_sub(rows));
            standing.send_if_modified(|standing| {
                // Why a log is refused says more.
                let is_news = of > 0 && standing.refused_since.is_none();
                if is_news {
                    standing.trouble = Some(format!("restoring a snapshot: {rows} of {of} rows"));
                }
                is_news
            });
        });
        match restore::furthest(store, owner, log, snapshots, beyond, &trust, &told).await {
            Ok(Furthest::Restored) => {
                self.doubt.restored();
                Ok(Ok(()))
            }
            Ok(Furthest::None { others }) => {
                self.doubt.none_restored(others);
                Ok(Ok(()))
            }
            Err(RestoreError::Store(error)) => Err(error.into()),
            Err(error @ RestoreError::NoAnswer(_)) => Ok(Err(error.to_string())),
        }
    }

    fn effects(&self, checkpoint: &Checkpoint) -> Effects<A> {
        let names = self.names.clone();
        Effects::new(self.connection.clone(), names, self.partition, checkpoint.log_born)
    }

    /// Whether the streams of outputs and rejects still have what was confirmed in them. The outer error is a reason to try again.
    pub(super) async fn judge_effects(&self, checkpoint: &Checkpoint) -> Result<Result<(), Verdict>, String> {
        let effects = self.effects(checkpoint);
        for (kind, mark) in [(Kind::Outputs, checkpoint.outputs), (Kind::Rejects, checkpoint.rejects)] {
            let Some(mark) = mark else { continue };
            match effects.mark_reading(kind, &mark).await {
                Ok(Some(reading)) => {
                    if let Err(forgot) = judge_mark(&mark, &reading) {
                        return Ok(Err(kind.forgot(forgot)));
                    }
                }
                Ok(None) => {
                    let (stream, apply) = (kind.said(&A::WORDS), A::WORDS.apply);
                    return Err(format!("there is no stream for {stream}: run `{apply}`"));
                }
                Err(cause) => return Err(cause.to_string()),
            }
        }
        Ok(Ok(()))
    }

    /// Does what there is to do about a verdict: the checkpoint to go on from, a reason to look again, or the reason to
    /// give up.
    async fn found(
        &mut self,
        verdict: Verdict,
        checkpoint: &Checkpoint,
        state: &LogState,
    ) -> Result<Result<Checkpoint, String>, PartitionError> {
        self.standing.send_modify(|standing| standing.in_question = verdict.flag());
        let is_accepted = verdict.flag().is_some_and(|loss| self.accepts(loss));
        let refused = PartitionError::Refused { partition: self.partition, verdict, words: &A::WORDS };
        match self.doubt.rule(&verdict, checkpoint.position, is_accepted, self.began.elapsed()) {
            Ruling::Search => {
                Ok(Err("the log begins further on: looking for a snapshot that reaches there".to_owned()))
            }
            Ruling::LookAgain { is_new } => Ok(Err(in_doubt(verdict.name(&A::WORDS), is_new, is_accepted, &refused))),
            Ruling::Refuse => Err(refused),
            Ruling::PublishAgain => self.publish_again(verdict, checkpoint).await,
            Ruling::Forget(forgot) => Ok(Ok(self.rejects_forgot(verdict, forgot, checkpoint)?)),
            Ruling::FoldBeforeHole => Ok(Ok(*checkpoint)),
            Ruling::Accept => {
                let after = verdict.accepted(checkpoint, state);
                self.record(verdict.said(&A::WORDS).to_string(), checkpoint, &after)?;
                let rejects = self.names.rejects_of(self.partition);
                tracing::warn!(log = self.log.name(), rejects, "{}", A::WORDS.after_a_loss);
                self.accepts.retain(|loss| Some(*loss) != verdict.flag());
                Ok(Ok(after))
            }
        }
    }

    /// The stream of outputs has forgotten some: those that rows remember are published again. The inner error is a reason to look again.
    async fn publish_again(
        &mut self,
        verdict: Verdict,
        checkpoint: &Checkpoint,
    ) -> Result<Result<Checkpoint, String>, PartitionError> {
        let effects = self.effects(checkpoint);
        let words = &A::WORDS;
        let again = republish::remembered(&*self.application, &self.store, &effects).await?;
        self.counted.conflicting(again.conflicting);
        if let Some(conflict) = again.conflict.filter(|_| self.config.halt) {
            return Err(PartitionError::Conflict { partition: self.partition, conflict, words });
        }
        if again.doubtful {
            return Ok(Err(format!("{} may forget again what is published again", words.outputs)));
        }
        let mut outputs = None;
        if let Some(place) = again.furthest {
            let subject = effects.subject(&Subject::Output(place.key));
            match effects.look(Kind::Outputs, place.sequence, &subject).await {
                Ok(Some((Found::There(mark), _))) => outputs = Some(mark),
                Ok(Some((Found::Expired, _))) => {}
                Ok(Some((Found::Forgotten, _)) | None) => {
                    return Ok(Err(format!("{} has forgotten again what was published again", words.outputs)));
                }
                Err(cause) => return Ok(Err(cause.to_string())),
            }
        }
        let lost = match again.oldest {
            Some(oldest) => {
                let ago = Duration::from_nanos(u64::try_from(checkpoint.log_time - oldest).unwrap_or(0));
                let ago = humantime::format_duration(Duration::from_secs(ago.as_secs()));
                format!("of {} that {} more than {ago} of log time ago", words.keys, words.has_put_out)
            }
            None => format!("of all {}: no row of one that {} is left", words.keys, words.has_put_out),
        };
        let text = format!(
            "{}: {} published again, {} still there, {} with another value there; what {} has lost {lost} can't \
             be recovered",
            verdict.said(words),
            again.published,
            again.already_there,
            again.conflicting,
            words.outputs
        );
        let after = Checkpoint { outputs, ..*checkpoint };
        self.record(text, checkpoint, &after)?;
        self.doubt.mended();
        Ok(Ok(after))
    }

    /// `rejects` has forgotten rejects, and no row tells what they were: that is said, and recorded.
    fn rejects_forgot(
        &mut self,
        verdict: Verdict,
        forgot: Forgot,
        checkpoint: &Checkpoint,
    ) -> Result<Checkpoint, PartitionError> {
        let text = format!(
            "{}. Batches through position {} may have been rejected that rejects does not show any more, the last at {}",
            verdict.said(&A::WORDS),
            checkpoint.position,
            rfc3339(forgot.recorded_at)
        );
        let after = Checkpoint { rejects: None, ..*checkpoint };
        self.record(text, checkpoint, &after)?;
        self.doubt.mended();
        Ok(after)
    }

    /// Goes on at `after`, and records in the store why.
    fn record(&self, verdict: String, before: &Checkpoint, after: &Checkpoint) -> Result<(), StoreError> {
        let (from, to) = (before.position, after.position);
        tracing::error!(log = self.log.name(), from, to, "recorded: {verdict}");
        let at = UnixNanos::try_from(time::OffsetDateTime::now_utc().unix_timestamp_nanos()).unwrap_or(UnixNanos::MAX);
        self.store.accept(after, Accepted { at, verdict, from, to })
    }

    /// There is no such log: a reason to look again, or the reason to give up.
    fn gone(&mut self) -> Result<String, PartitionError> {
        let gone =
            PartitionError::LogGone { partition: self.partition, log: self.log.name().to_owned(), words: &A::WORDS };
        match self.doubt.gone(self.began.elapsed()) {
            Ruling::LookAgain { is_new } => Ok(in_doubt("gone", is_new, false, &gone)),
            _ => Err(gone),
        }
    }
}

/// Why the log is looked at again. When that is new, it is said what is going to be the reason to give up.
fn in_doubt(name: &str, is_new: bool, is_accepted: bool, error: &PartitionError) -> String {
    if is_new {
        let stands = STANDS.as_secs();
        match error {
            // What it is accepted with is no advice any more.
            PartitionError::Refused { partition, verdict, words } if is_accepted => tracing::error!(
                "partition {partition}: {}; looking again for {stands} s before it is believed, and then accepted as \
                 {} says",
                verdict.said(words),
                words.accept
            ),
            error => tracing::error!("{error}; looking again for {stands} s before it is believed"),
        }
    }
    format!("the log is in doubt: {name}")
}
