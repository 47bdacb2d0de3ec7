//! Opening a log, as [the partition](crate::partition) does: what is restored, what is found, and what is done about it.

use super::disk::Disk;
use super::session::{Session, Source};
use super::tales::End;
use super::worker::{Again, Asked, Ended, Post, Process};
use super::world::{Fault, World};
use crate::application::Application;
use crate::checkpoint::{Checkpoint, Position};
use crate::commit::doubt::{Leaders, Order, Place};
use crate::commit::effect::{Answer, Found, Kind, ReadBack};
use crate::identity::accept::Accepted;
use crate::identity::doubt::Ruling;
use crate::identity::{LogState, Verdict, is_unproven, judge};
use bytes::Bytes;
use std::cmp::Reverse;

impl Process {
    /// Looks for a snapshot if one is to be restored first. Whether the log may be opened.
    pub async fn search(&mut self) -> Asked<()> {
        if let Some(beyond) = self.doubt.wanted_beyond() {
            self.restore(beyond).await?;
            self.doubt.has_searched();
        }
        Ok(())
    }

    async fn restore(&mut self, beyond: Position) -> Asked<()> {
        let mut trusted = None;
        if let Some(own) = self.begun().await? {
            let reading = self.at.reading(&own, None).await?;
            match judge(&own, &reading) {
                Ok(()) if is_unproven(&own, &reading) => {}
                Ok(()) => trusted = Some(self.at.disk.borrow().accepted.clone()),
                Err(Verdict::LogTruncated { .. }) => {}
                Err(_) => return Ok(()),
            }
        }
        let mut listed = self.at.ask(|world| world.bucket.clone()).await?;
        listed.sort_by_key(|snapshot| Reverse((snapshot.disk.position(), snapshot.put_at)));
        let (mut verdicts, many) = (Vec::new(), listed.len());
        for snapshot in listed {
            let checkpoint = snapshot.disk.checkpoint.expect("what is put away has begun");
            let reading = self.at.reading(&checkpoint, None).await?;
            if let Err(verdict) = judge(&checkpoint, &reading) {
                if !matches!(verdict, Verdict::LogTruncated { .. }) {
                    verdicts.push(verdict);
                }
                continue;
            }
            let is_trusted = trusted.as_ref().is_none_or(|accepted| *accepted == snapshot.disk.accepted);
            if checkpoint.position <= beyond || !is_trusted {
                continue;
            }
            let find =
                |world: &mut World| world.bucket.iter().any(|found| found.name == snapshot.name && !found.is_damaged);
            if self.at.ask(find).await? {
                let disk = &mut *self.at.disk.borrow_mut();
                let mut accepted = std::mem::take(&mut disk.accepted);
                accepted.extend(snapshot.disk.accepted.iter().cloned());
                accepted.sort_by_key(|accepted| accepted.at);
                accepted.dedup();
                *disk = Disk { accepted, ..snapshot.disk };
                self.at.tell(format_args!("restored a snapshot at {}", checkpoint.position));
                self.doubt.restored();
                return Ok(());
            }
        }
        let all_others = !verdicts.is_empty() && verdicts.len() == many;
        self.doubt.none_restored(verdicts.first().copied().filter(|_| all_others));
        Ok(())
    }

    /// Judges the log, and opens it at the checkpoint.
    pub async fn open(&mut self) -> Result<Session, Ended> {
        let again = |Again| Ended::Lost;
        let mut checkpoint = match self.begun().await.map_err(again)? {
            Some(checkpoint) => checkpoint,
            None => {
                let state = self.at.log_state().await.map_err(again)?;
                match self.doubt.others() {
                    None => self.begin(state.created),
                    Some(verdict) => self.found(verdict, Checkpoint::start_of(state.created), &state).await?,
                }
            }
        };
        let expected = self.doubt.expected(checkpoint.position);
        let reading = self.at.reading(&checkpoint, Some(expected)).await.map_err(again)?;
        let judged = judge(&checkpoint, &reading);
        if matches!(judged, Ok(()) | Err(Verdict::LogHole { .. })) && checkpoint.log_created != reading.state.created {
            checkpoint.log_created = reading.state.created;
            self.at.disk.borrow_mut().checkpoint = Some(checkpoint);
        }
        if judged.is_ok() && is_unproven(&checkpoint, &reading) && self.doubt.unproven(checkpoint.position) {
            return Err(Ended::Lost);
        }
        let judged = match judged {
            Err(verdict) if !verdict.is_further_on(checkpoint.position) => Err(verdict),
            judged => self.at.judge_effects(&checkpoint).await.map_err(again)?.and(judged),
        };
        match judged {
            Ok(()) => self.doubt.sound(),
            Err(verdict) => checkpoint = self.found(verdict, checkpoint, &reading.state).await?,
        }
        let source = self.source(checkpoint.position).await.map_err(again)?;
        self.at.refused.set(None);
        self.at.tell(format_args!("opened the log at {}", checkpoint.position));
        let leaders = self.leaders().await;
        Ok(Session::new(&self.application, checkpoint, &self.at, source, leaders))
    }

    pub async fn source(&self, position: Position) -> Asked<Source> {
        let connects = self.at.connects();
        let epoch = self.at.ask(|world| world.log.epoch).await?;
        Ok(Source::new(position, connects, epoch))
    }

    pub async fn leaders(&self) -> Leaders {
        let at = &self.at;
        Leaders {
            outputs: at.ask(|world| world.outputs.leader.clone()).await.ok(),
            rejects: at.ask(|world| world.rejects.leader.clone()).await.ok(),
            log: at.ask(|world| world.known_log().leader.clone()).await.ok(),
        }
    }

    async fn found(&mut self, verdict: Verdict, checkpoint: Checkpoint, state: &LogState) -> Result<Checkpoint, Ended> {
        let is_accepted = verdict.flag().is_some_and(|loss| self.at.accepts.borrow().contains(&loss));
        let ruling = self.doubt.rule(&verdict, checkpoint.position, is_accepted, self.elapsed());
        self.at.tell(format_args!("found {verdict:?}: {ruling:?}"));
        match ruling {
            Ruling::Search | Ruling::LookAgain { .. } => Err(Ended::Lost),
            Ruling::Refuse => Err(Ended::Refused(verdict)),
            Ruling::PublishAgain => self.publish_again(verdict, checkpoint).await,
            Ruling::Forget(_) => {
                if !self.at.world.borrow().happened.contains_key(&Fault::RejectsLose) {
                    self.at.world.borrow_mut().breaks("no verdict without its cause", format!("{verdict:?}"));
                }
                let after = Checkpoint { rejects: None, ..checkpoint };
                self.record(&verdict, &checkpoint, &after);
                self.doubt.mended();
                Ok(after)
            }
            Ruling::FoldBeforeHole => Ok(checkpoint),
            Ruling::Accept => {
                self.has_a_cause(&verdict);
                let after = verdict.accepted(&checkpoint, state);
                self.record(&verdict, &checkpoint, &after);
                self.at.accepts.borrow_mut().retain(|loss| Some(*loss) != verdict.flag());
                Ok(after)
            }
        }
    }

    fn record(&self, verdict: &Verdict, before: &Checkpoint, after: &Checkpoint) {
        self.at.tell(format_args!("recorded {verdict:?}, on from {}", after.position));
        let at = self.at.world.borrow_mut().stamp();
        let (from, to, verdict) = (before.position, after.position, format!("{verdict:?}"));
        self.at.disk.borrow_mut().accept(after, Accepted { at, verdict, from, to });
    }

    async fn publish_again(&mut self, verdict: Verdict, checkpoint: Checkpoint) -> Result<Checkpoint, Ended> {
        let causes = [Fault::OutputsLose, Fault::OutputsAnew];
        if !causes.iter().any(|cause| self.at.world.borrow().happened.contains_key(cause)) {
            self.at.world.borrow_mut().breaks("no verdict without its cause", format!("{verdict:?}"));
        }
        let rows = self.at.disk.borrow().rows.clone();
        let ends = rows.iter().filter_map(|(tale, row)| Some(self.application.was_put_out(tale, row)?.0));
        let (mut order, mut furthest, mut doubtful) = (Order::after(0), None, false);
        for end in ends {
            let (sequence, already_there, unknown) = publish_until_found(&self.at, end).await;
            doubtful |= unknown || !already_there && order.stored(sequence).is_some();
            Place { sequence, key: end }.further(&mut furthest);
        }
        if doubtful {
            return Err(Ended::Lost);
        }
        let mut outputs = None;
        if let Some(Place { sequence, key }) = furthest {
            let subject = key.tale.to_string();
            match self.at.ask(|world| world.look(Kind::Outputs, sequence, &subject)).await {
                Ok(Found::There(mark)) => outputs = Some(mark),
                Ok(Found::Expired) => {}
                Ok(Found::Forgotten) | Err(Again) => return Err(Ended::Lost),
            }
        }
        let after = Checkpoint { outputs, ..checkpoint };
        self.record(&verdict, &checkpoint, &after);
        self.doubt.mended();
        Ok(after)
    }
}

/// Where an output is, whether it was there before, and whether a try ended unknown.
async fn publish_until_found(at: &Post, end: End) -> (u64, bool, bool) {
    let (subject, payload) = (end.tale.to_string(), Bytes::from(end.digest.to_le_bytes().to_vec()));
    let mut unknown = false;
    loop {
        match at.ask(|world| world.publish(Kind::Outputs, &subject, payload.clone())).await {
            Ok(Answer::Stored(sequence)) => return (sequence, false, unknown),
            Ok(Answer::SubjectTaken) => {
                let found = at.ask(|world| world.read_back(Kind::Outputs, &subject, &payload)).await;
                if let Ok(ReadBack::Same(sequence)) = found {
                    return (sequence, true, unknown);
                }
            }
            Ok(Answer::Unknown) | Err(Again) => unknown = true,
        }
    }
}
