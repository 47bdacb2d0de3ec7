//! What a worker says of itself in its group, and what it hears of others.

use super::{Course, Group, HEARD};
use crate::application::Application;
use crate::group::member::{Followed, Handed, Member, Owned};
use crate::nats::presence::Heard;
use crate::nats::publish::Refusal;
use crate::partition::{Duty, PartitionError};
use crate::standing::Phase;
use crate::throttle::ThrottleByCause;
use crate::worker::board::millis;
use futures_util::stream::{self, StreamExt};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the bucket of presence may take to answer at the start.
const FIRST_WORDS: Duration = Duration::from_secs(3);

/// Who follows a partition that is to be its own takes over after so long, even if it has not come close: a group that is
/// overloaded must still be able to share.
const PATIENCE: Duration = Duration::from_secs(20);

static COMPLAINTS: ThrottleByCause = ThrottleByCause::new();

impl<A: Application> Group<A> {
    /// What others say from now on.
    pub(super) async fn listen(&self) -> stream::BoxStream<'static, Heard> {
        match self.presence.listen().await {
            Ok(others) => others.boxed(),
            Err(error) => {
                tracing::warn!(%error, "other workers can't be heard");
                stream::pending().boxed()
            }
        }
    }

    /// Says that it is there, and reads who else is; then takes what it is to hold. Without an answer it folds all that it may.
    pub(super) async fn meet(&mut self) {
        let meeting = async {
            let read = async || {
                let entries = self.presence.read().await.map_err(|error| error.to_string())?;
                entries.ok_or_else(|| "there is none".to_owned())
            };
            for heard in read().await? {
                // An earlier life of this worker, which may be there still: whoever starts never gives way.
                if let Heard::Says(name, member) = heard
                    && name == self.holder.worker
                {
                    self.holder.life.rise_above(&member.incarnation.into());
                }
            }
            self.presence.say(&self.member()).await.map_err(|refusal| format!("{refusal:?}"))?;
            // Of two that start at once, one at the least sees the other.
            read().await
        };
        match timeout(FIRST_WORDS, meeting).await.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(entries) => {
                self.was_heard(Ok(()));
                entries.into_iter().for_each(|heard| self.hear(heard));
                if self.pinned {
                    self.hold_all();
                }
            }
            Err(cause) => {
                self.complain(cause);
                self.hold_all();
            }
        }
    }

    pub(super) fn is_heard(&self) -> bool {
        self.heard_at.is_some_and(|at| at.elapsed() < HEARD)
    }

    pub(super) fn was_heard(&mut self, said: Result<(), Refusal>) {
        match said {
            Ok(()) => {
                self.heard_at = Some(Instant::now());
                self.holder.board.trouble(None);
            }
            Err(refusal) => self.complain(format!("{refusal:?}")),
        }
    }

    pub(super) fn complain(&self, cause: String) {
        let bucket = self.holder.shared.names.members_bucket();
        let keeps = "partitions stay where they are";
        if let Some(times) = COMPLAINTS.count(&cause) {
            let (worker, apply) = (A::WORDS.worker, A::WORDS.apply);
            tracing::warn!(
                bucket,
                cause,
                times,
                "this {worker} can't say that it is there: {keeps} until it can. If the bucket is gone, run `{apply}`"
            );
        }
        let trouble = format!("the bucket {bucket} takes nothing ({cause}): {keeps}");
        self.holder.board.trouble(Some(trouble));
    }

    pub(super) fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Says(name, member) if name == self.holder.worker => {
                let life = self.holder.life.incarnation();
                if member.incarnation > life.told() && self.course == Course::GoesOn {
                    // A process of the same name that has started later: this one is a zombie of it.
                    let partition = self.held.keys().next().copied().unwrap_or(0);
                    self.fail(PartitionError::Superseded { partition, words: &A::WORDS });
                }
            }
            Heard::Says(name, member) => self.roster.heard(&name, member),
            Heard::Left(name) => self.roster.left(&name),
        }
    }

    /// What this worker says of itself.
    pub(super) fn member(&self) -> Member {
        let owned = self.held.iter().filter(|(_, held)| held.owns()).map(|(partition, held)| Owned {
            partition: *partition,
            term: held.term,
            position: held.position(),
        });
        // Those that are handed over are folded until it is told where they have stopped.
        let ending = self.endings.claims().filter_map(|(partition, _)| {
            let held = self.held.get(&partition)?;
            Some(Owned { partition, term: held.term, position: held.position() })
        });
        let opening = self.wanted.iter().filter(|(_, (duty, _))| *duty != Duty::Follow);
        let opening = opening.map(|(partition, (_, term))| Owned { partition: *partition, term: *term, position: 0 });
        let follows = self.held.iter().filter_map(|(partition, held)| {
            let is_close = match held.phase() {
                _ if held.owns() || self.endings.contains(*partition) => return None,
                Phase::Follows { close } => close,
                Phase::Closed | Phase::Owns | Phase::HandedOver => false,
            };
            let close = is_close || held.since.elapsed() >= PATIENCE;
            Some(Followed { partition: *partition, position: held.position(), close })
        });
        let handed = self.endings.handed(Instant::now()).map(|(partition, position, stopped)| Handed {
            partition,
            position,
            stopped_ms_ago: millis(stopped),
        });
        Member {
            incarnation: self.holder.life.incarnation().told(),
            pinned: self.pinned,
            leaving: self.course != Course::GoesOn,
            standby: self.standby,
            owns: owned.chain(ending).chain(opening).collect(),
            follows: follows.collect(),
            handed: handed.collect(),
        }
    }
}
