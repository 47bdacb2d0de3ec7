//! `Injector`: does one fault after the other, undoes it, and says what effect it was seen to have.

use crate::local::up::children::ChildError;
use crate::soak::clock::Clock;
use crate::soak::crew::Crew;
use crate::soak::fault::Fault;
use crate::soak::nodes::Nodes;
use crate::soak::plan::Planned;
use crate::soak::proxy::Mode;
use crate::soak::sample::disk_bytes;
use jetfold::archive::bucket::Snapshots;
use jetfold::joined;
use jetfold::nats::connect::Connection;
use jetfold::nats::names::Names;
use jetfold::nats::{read, standing};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a summer may take to say what it holds, before something is done to it.
const ASKED: Duration = Duration::from_millis(500);

/// Leaders step down so often, while they are to.
const STEP_DOWNS: Duration = Duration::from_millis(300);

/// How long JetStream may take for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What a server is to have forgotten is stored between a copy of its folder and this.
const FORGOTTEN: Duration = Duration::from_secs(4);

/// The clock of a server is set so far only that nothing expires by it; that of a summer as far as one likes.
const SERVER_OFF_BY: i64 = 60;
const SUMMER_OFF_BY: i64 = 24 * 3600;

/// A summer of the run.
#[derive(Clone, Debug)]
pub struct Summer {
    /// As a process of the crew, and as a worker.
    pub name: String,
    pub worker: String,
    pub folder: PathBuf,
}

pub struct Injector {
    pub crew: Crew,
    /// The run's own servers, if it has any.
    pub nodes: Option<Arc<Nodes>>,
    pub summers: Vec<Summer>,
    /// Past all links.
    pub connection: Connection,
    pub names: Names,
    pub partitions: u32,
    /// The streams that have leaders.
    pub streams: Vec<String>,
}

/// A fault that was done.
#[derive(Clone, Debug)]
pub struct Done {
    /// Whom it hit.
    pub target: String,
    /// What it was seen to do, in words; `None`: nothing.
    pub effect: Option<String>,
}

fn done(target: impl Into<String>, effect: Option<String>) -> Done {
    Done { target: target.into(), effect }
}

impl Injector {
    /// Does it for as long as it is to last, and undoes it.
    pub async fn inject(&self, planned: &Planned) -> Result<Done, ChildError> {
        let Planned { fault, for_s, target, .. } = *planned;
        let lasts = Duration::from_secs_f64(for_s);
        let summer = &self.summers[usize::try_from(target).unwrap_or(0) % self.summers.len()];
        match fault {
            Fault::SummerKill => self.summer_ended(summer, Signal::SIGKILL, lasts, false).await,
            Fault::SummerStop => self.summer_ended(summer, Signal::SIGTERM, lasts, false).await,
            Fault::SummerLostDisk => self.summer_ended(summer, Signal::SIGKILL, lasts, true).await,
            Fault::SummerPause => Ok(self.paused(&summer.name, self.holds(summer).await, lasts).await),
            Fault::SummerClock => Ok(self.clock(&summer.name, SUMMER_OFF_BY, target, lasts).await),
            Fault::ServerKill
            | Fault::ServerPause
            | Fault::ServerStop
            | Fault::ServerCut
            | Fault::ServerSlow
            | Fault::ServerClock
            | Fault::QuorumGone
            | Fault::ServerForgets => match &self.nodes {
                Some(nodes) => self.to_a_server(nodes, fault, target, lasts).await,
                None => Ok(done("-", None)),
            },
            Fault::LeaderStepDown => Ok(self.step_down(lasts).await),
            Fault::ConsumerDelete => Ok(self.delete_consumers().await),
            Fault::PeerRemove => Ok(self.remove_peer(target).await),
            Fault::Purge => Ok(self.purge().await),
        }
    }

    /// How many partitions a summer says that it folds, in words.
    async fn holds(&self, summer: &Summer) -> String {
        let worker = [summer.worker.clone()].into();
        let told =
            standing::ask(&self.connection, &self.names, worker, ASKED, Duration::ZERO).await.unwrap_or_default();
        let told = told.iter().find(|told| told.worker == summer.worker);
        let folded = told.map_or(0, |told| told.partitions.iter().filter(|held| !held.follows).count());
        format!("{} folded {folded} partitions", summer.name)
    }

    async fn summer_ended(
        &self,
        summer: &Summer,
        by: Signal,
        lasts: Duration,
        loses_disk: bool,
    ) -> Result<Done, ChildError> {
        let held = self.holds(summer).await;
        let ended = self.crew.hold(&summer.name, by).await;
        let mut effect = ended.map(|ended| format!("{held}, and {ended}"));
        if loses_disk {
            let folder = summer.folder.clone();
            let lost = tokio::task::spawn_blocking(move || {
                let bytes = disk_bytes(&folder).unwrap_or(0);
                fs::remove_dir_all(&folder).map(|()| bytes)
            });
            let lost = joined(lost.await);
            effect =
                effect.zip(lost.ok()).map(|(effect, bytes)| format!("{effect}; {bytes} bytes of stores were lost"));
        }
        sleep(lasts).await;
        self.crew.release(&summer.name).await?;
        Ok(done(&summer.name, effect))
    }

    async fn paused(&self, name: &str, held: String, lasts: Duration) -> Done {
        let pid = self.crew.pid(name).await;
        self.crew.signal(name, Signal::SIGSTOP).await;
        sleep(lasts / 2).await;
        let stopped = pid.is_some_and(is_stopped);
        sleep(lasts / 2).await;
        self.crew.signal(name, Signal::SIGCONT).await;
        done(name, stopped.then(|| format!("{held}, and stood still for {:.1} s", lasts.as_secs_f64())))
    }

    async fn clock(&self, name: &str, off_by: i64, target: u64, lasts: Duration) -> Done {
        let off_by = if target.is_multiple_of(2) { off_by } else { -off_by };
        let Some(pid) = self.crew.pid(name).await else { return done(name, None) };
        let clock = match Clock::of(pid) {
            Ok(clock) => clock,
            Err(error) => {
                tracing::warn!(%error, "a clock can't be set");
                return done(name, None);
            }
        };
        let set = clock.is_off_by(off_by);
        sleep(lasts).await;
        let set_right = clock.is_off_by(0);
        let way = if off_by > 0 { "forward" } else { "back" };
        let effect =
            set.and(set_right).ok().map(|()| format!("its clock was {} s {way}, and right again", off_by.abs()));
        done(name, effect)
    }

    async fn to_a_server(&self, nodes: &Nodes, fault: Fault, target: u64, lasts: Duration) -> Result<Done, ChildError> {
        let count = nodes.nodes.len();
        let hit = usize::try_from(target).unwrap_or(0) % count;
        let name = nodes.nodes[hit].name.clone();
        Ok(match fault {
            Fault::ServerKill | Fault::ServerStop => {
                let led = self.led_by(&name).await;
                let by = if fault == Fault::ServerKill { Signal::SIGKILL } else { Signal::SIGUSR2 };
                let ended = self.crew.hold(&name, by).await;
                sleep(lasts).await;
                self.crew.release(&name).await?;
                done(name, ended.map(|ended| format!("it led {led} of {} streams, and {ended}", self.streams.len())))
            }
            Fault::ServerPause => {
                let led = format!("it led {} of {} streams", self.led_by(&name).await, self.streams.len());
                self.paused(&name, led, lasts).await
            }
            Fault::ServerCut => {
                let (open, _) = nodes.set(hit, Mode::Cut);
                sleep(lasts).await;
                nodes.set(hit, Mode::Through);
                done(name, (open > 0).then(|| format!("{open} connections were reset, and none came about")))
            }
            Fault::ServerSlow => {
                let delay = Duration::from_millis(10 + target % 60);
                let slow = Mode::Slow { delay, bytes_a_second: 4 << 20 };
                let (_, before) = nodes.set(hit, slow);
                sleep(lasts).await;
                let (_, after) = nodes.set(hit, Mode::Through);
                let held_up = after - before;
                done(
                    name,
                    (held_up > 0)
                        .then(|| format!("{held_up} pieces were held up for {} ms and more", delay.as_millis())),
                )
            }
            Fault::ServerClock => self.clock(&name, SERVER_OFF_BY, target, lasts).await,
            Fault::QuorumGone => {
                let gone: Vec<_> =
                    (0..count).filter(|node| *node != hit).map(|node| nodes.nodes[node].name.clone()).collect();
                let mut killed = 0;
                for name in &gone {
                    killed += usize::from(self.crew.hold(name, Signal::SIGKILL).await.is_some());
                }
                let silent = self.led_by(&name).await == 0;
                sleep(lasts).await;
                for name in &gone {
                    self.crew.release(name).await?;
                }
                let words =
                    if silent { "and no stream had a leader" } else { "and the last still took itself for a leader" };
                done(
                    gone.join(", "),
                    (killed == gone.len()).then(|| format!("{killed} of {count} servers were gone, {words}")),
                )
            }
            _ => self.forget(nodes, hit).await?,
        })
    }

    /// Puts a server's folder back to what it was a few seconds before.
    async fn forget(&self, nodes: &Nodes, hit: usize) -> Result<Done, ChildError> {
        let name = nodes.nodes[hit].name.clone();
        let store = nodes.store(hit);
        let earlier = store.with_extension("earlier");
        let last = self.furthest().await;
        self.crew.hold(&name, Signal::SIGKILL).await;
        let (from, to) = (store.clone(), earlier.clone());
        let copied = joined(tokio::task::spawn_blocking(move || copy(&from, &to)).await);
        self.crew.release(&name).await?;
        sleep(FORGOTTEN).await;
        let then = self.furthest().await;
        self.crew.hold(&name, Signal::SIGKILL).await;
        let put_back = tokio::task::spawn_blocking(move || {
            fs::remove_dir_all(&store)?;
            fs::rename(&earlier, &store)
        });
        let put_back = joined(put_back.await);
        self.crew.release(&name).await?;
        let effect = copied.and(put_back).ok().filter(|()| then > last);
        Ok(done(
            name,
            effect.map(|()| format!("its folder was put back: {} messages and more are forgotten", then - last)),
        ))
    }

    /// Messages that were ever stored in the logs, as far as anybody answers.
    async fn furthest(&self) -> u64 {
        let mut last = 0;
        for stream in &self.streams {
            let info = timeout(ANSWER, read::stream(&self.connection.jetstream, stream)).await;
            last += info.ok().and_then(Result::ok).flatten().map_or(0, |info| info.state.last_sequence);
        }
        last
    }

    /// How many streams a server leads.
    async fn led_by(&self, name: &str) -> usize {
        let leaders = self.leaders().await;
        leaders.iter().filter(|(_, leader)| leader == name).count()
    }

    /// The streams that have a leader that is known, and which.
    pub async fn leaders(&self) -> Vec<(String, String)> {
        let asked = self.streams.iter().map(async |stream| {
            let info = timeout(ANSWER, read::stream(&self.connection.jetstream, stream)).await.ok()?.ok()??;
            Some((stream.clone(), read::leader(&info).name?))
        });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn api(&self, subject: String, question: &Value) -> Option<Value> {
        let jetstream = &self.connection.client;
        let asked = jetstream.request(format!("$JS.API.{subject}"), question.to_string().into());
        serde_json::from_slice(&timeout(ANSWER, asked).await.ok()?.ok()?.payload).ok()
    }

    async fn step_down(&self, lasts: Duration) -> Done {
        let (until, mut stepped) = (Instant::now() + lasts, 0);
        while Instant::now() < until {
            let next = Instant::now() + STEP_DOWNS;
            for stream in &self.streams {
                let answer = self.api(format!("STREAM.LEADER.STEPDOWN.{stream}"), &json!({})).await;
                stepped += u64::from(answer.is_some_and(|answer| answer["success"] == true));
            }
            tokio::time::sleep_until(next).await;
        }
        done("all streams", (stepped > 0).then(|| format!("{stepped} leaders stepped down")))
    }

    async fn delete_consumers(&self) -> Done {
        let mut deleted = 0;
        for log in (0..self.partitions).map(|partition| self.names.log(partition)) {
            for consumer in read::consumers(&self.connection.jetstream, &log).await.unwrap_or_default() {
                if self.names.worker_of_durable(&consumer).is_some() {
                    let answer = self.api(format!("CONSUMER.DELETE.{log}.{consumer}"), &json!({})).await;
                    deleted += u64::from(answer.is_some_and(|answer| answer["success"] == true));
                }
            }
        }
        done("all logs", (deleted > 0).then(|| format!("{deleted} consumers were deleted")))
    }

    async fn remove_peer(&self, target: u64) -> Done {
        let stream = &self.streams[usize::try_from(target).unwrap_or(0) % self.streams.len()];
        let info = read::stream(&self.connection.jetstream, stream).await.ok().flatten();
        let peer = info.and_then(|info| info.cluster?.replicas.first().map(|peer| peer.name.clone()));
        let Some(peer) = peer else { return done(stream, None) };
        let answer = self.api(format!("STREAM.PEER.REMOVE.{stream}"), &json!({ "peer": peer })).await;
        let removed = answer.is_some_and(|answer| answer["success"] == true);
        done(stream, removed.then(|| format!("{peer} was removed from its peers")))
    }

    /// Purges each log up to its furthest snapshot: that much anybody can do without.
    async fn purge(&self) -> Done {
        #[derive(Deserialize)]
        struct Purged {
            #[serde(default)]
            purged: u64,
        }
        let snapshots = Snapshots::new(self.connection.clone(), &self.names);
        let mut purged = 0;
        for partition in 0..self.partitions {
            let listed = snapshots.list(partition).await.unwrap_or_default();
            let Some(position) = listed.iter().map(|listed| listed.checkpoint.position).max() else { continue };
            let subject = format!("STREAM.PURGE.{}", self.names.log(partition));
            let answer = self.api(subject, &json!({ "seq": position })).await;
            let answer = answer.and_then(|answer| serde_json::from_value::<Purged>(answer).ok());
            purged += answer.map_or(0, |answer| answer.purged);
        }
        done("all logs", (purged > 0).then(|| format!("{purged} batches behind snapshots were purged")))
    }
}

/// Whether a process stands still.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program stands before, in parentheses.
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't']))
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name()))?,
            false => _ = fs::copy(entry.path(), to.join(entry.file_name()))?,
        }
    }
    Ok(())
}
