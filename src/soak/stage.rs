//! `Stage`: everything that a soak runs on, set up before the first chunk and cleared away after the verdict.

use crate::local::up::children::{self, ChildError, Children, Hear};
use crate::local::up::{Folder, remember_less, wait_for_answers};
use crate::soak::baseline;
use crate::soak::crew::{Crew, Orders};
use crate::soak::document::Server;
use crate::soak::fault::Ground;
use crate::soak::injector::{Injector, Summer};
use crate::soak::nodes::Nodes;
use crate::soak::overheard::Overheard;
use crate::soak::proxy::Mode;
use crate::soak::replicas::{self, Replicas};
use crate::soak::{Soak, SoakError};
use crate::sum::names::{FinalNames, names};
use crate::sum::topology_section;
use jetfold::joined;
use jetfold::nats::admin::Allowed;
use jetfold::nats::connect::{self, Connection};
use jetfold::values::Size;
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long servers may take to become a cluster.
const CLUSTER: Duration = Duration::from_secs(90);

const AGAIN: Duration = Duration::from_millis(500);

/// How long all of it may take to stop, and how much of that is the summers'.
const STOPPING: Duration = Duration::from_secs(12);
const SUMMERS_STOPPING: Duration = Duration::from_secs(10);

/// How long the streams of the run may take to be removed from somebody's servers.
const REMOVING: Duration = Duration::from_secs(20);

/// What a private system keeps: so much that replicas can be compared within a minute.
const LOG_MAX_BYTES: Size = Size(64 << 20);
const SUMS_MAX_BYTES: Size = Size(1 << 30);

/// How old a snapshot is before its log is purged, on servers whose disks nobody takes away.
const PURGE_DELAY: &str = "10s";

pub struct Stage {
    /// `None` while a task of their own has them, and once it is cleared.
    children: Option<Children>,
    orders: Option<Orders>,
    crew: Crew,
    folder: PathBuf,
    pub overheard: Overheard,
    /// Streams that the run has made on somebody's servers: where, under which prefix, and which.
    made: Option<(Connection, Vec<String>)>,
}

/// Processes that are kept running.
pub struct Kept {
    pub keeping: JoinHandle<Given>,
    over: CancellationToken,
}

/// Processes that are kept running no more, and why.
pub type Given = (Children, Orders, Option<ChildError>);

/// What is there once it is set.
pub struct Set {
    /// How clients reach the servers, and how the run itself does, past all links.
    pub nats: connect::Config,
    pub over_links: Connection,
    pub topology: topology_section::Config,
    pub servers: Vec<Server>,
    pub replicas: usize,
    pub partitions: u32,
    pub injector: Arc<Injector>,
    /// Processes and their folders.
    pub folders: Vec<(String, PathBuf)>,
    pub baseline_stream: String,
    pub baseline_subject: String,
    past_links: connect::Config,
}

/// Writes what a process says to a file of its own, and listens to it.
fn hear(folder: &Path, overheard: &Overheard) -> Hear {
    let (folder, overheard) = (folder.to_owned(), overheard.clone());
    let files = Mutex::new(BTreeMap::new());
    Arc::new(move |name, line| {
        overheard.hear(line);
        let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.entry(name.to_owned()).or_insert_with(|| {
            OpenOptions::new().create(true).append(true).open(folder.join(format!("{name}.log"))).ok()
        });
        if let Some(file) = file {
            writeln!(file, "{line}").ok();
        }
    })
}

impl Stage {
    pub fn new(soak: &Soak) -> Result<Self, SoakError> {
        let (children, folder) = Folder::new(soak.data_dir.as_deref())?.children()?;
        let overheard = Overheard::default();
        let children = Some(children.heard_by(hear(&folder, &overheard)));
        let (crew, orders) = Crew::new();
        Ok(Self { children, orders: Some(orders), crew, folder, overheard, made: None })
    }

    /// Sets everything up, to where each summer folds its share.
    pub async fn set(&mut self, soak: &Soak) -> Result<Option<Set>, SoakError> {
        let Self { children, folder, .. } = self;
        let Some(children) = children else { return Ok(None) };
        let (mut nats, mut past_links) = (soak.nats.clone(), soak.nats.clone());
        let mut topology = soak.topology.clone();
        let mut nodes = None;
        let mut environment = soak.environment.clone();
        match soak.ground {
            Ground::Private { nodes: count } => {
                remember_less(&mut topology);
                let small = |name: &str, of: &mut Size, most: Size| {
                    if !topology.stated.contains(name) {
                        *of = most;
                    }
                };
                small("log_max_bytes", &mut topology.log_max_bytes, LOG_MAX_BYTES);
                small("sums_max_bytes", &mut topology.sums_max_bytes, SUMS_MAX_BYTES);
                if !topology.stated.contains("replicas") {
                    topology.replicas = count;
                }
                environment.push(("STREAM_SUM_SUMMER__PURGE_DELAY".to_owned(), PURGE_DELAY.to_owned()));
                let mapping = names(&topology.prefix).mapping(topology.partitions);
                let sync_interval = soak.sync_interval.as_deref();
                let started = Nodes::start(count, folder, &mapping, sync_interval, children).await?;
                nats.servers = started.urls();
                past_links.servers = started.urls_past_links();
                nodes = Some(Arc::new(started));
            }
            Ground::Given => {
                if topology.prefix.is_empty() {
                    topology.prefix = format!("soak-{}", hex::encode(rand::random::<[u8; 4]>()));
                }
            }
        }
        environment.push(("STREAM_SUM_NATS__SERVERS".to_owned(), nats.servers.join(",")));
        environment.push(("STREAM_SUM_TOPOLOGY__PREFIX".to_owned(), topology.prefix.clone()));
        let connection = connect::connect(&past_links, "stream-sum soak").await?;
        let over_links = connect::connect(&nats, "stream-sum soak baseline").await?;
        let admin = topology.admin(&connection, past_links.shown_addresses());
        let until = Instant::now() + CLUSTER;
        let is_cluster = matches!(soak.ground, Ground::Private { nodes } if nodes > 1);
        loop {
            match connection.unless_denied(admin.apply(Allowed::default())).await? {
                Ok(_) => break,
                // Servers that were just started have no leader yet.
                Err(_) if is_cluster && Instant::now() < until => {}
                Err(_) if is_cluster => return Err(SoakError::NoCluster(CLUSTER)),
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                error = children.supervise() => return Err(error.into()),
                () = sleep(AGAIN) => {}
            }
        }
        let agreed = connection.unless_denied(admin.check()).await??;
        let system = agreed.names.clone();
        let logs: Vec<_> = (0..agreed.partitions).map(|partition| system.log(partition)).collect();
        let streams: Vec<_> = logs.iter().cloned().chain([system.outputs(), system.rejects()]).collect();
        let (baseline_stream, baseline_subject) = match topology.prefix.as_str() {
            "" => (baseline::STREAM.to_owned(), baseline::STREAM.to_owned()),
            prefix => (format!("{prefix}-{}", baseline::STREAM), format!("{prefix}.{}", baseline::STREAM)),
        };
        if soak.ground == Ground::Given {
            let beside = [
                format!("OBJ_{}", system.state_bucket()),
                format!("KV_{}", system.members_bucket()),
                baseline_stream.clone(),
            ];
            self.made = Some((connection.clone(), streams.iter().cloned().chain(beside).collect()));
        }
        let Some(children) = &mut self.children else { return Ok(None) };
        let summers = start_summers(soak, &self.folder, &topology.prefix, &environment, children)?;
        let workers = summers.iter().map(|summer| summer.worker.clone()).collect();
        tokio::select! {
            answered = wait_for_answers(&connection, &agreed, workers) => answered?,
            error = children.supervise() => return Err(error.into()),
        }
        let version = connection.client.server_info().version;
        let servers = match &nodes {
            Some(nodes) => {
                let of = |name: &str| Server { name: name.to_owned(), version: version.clone() };
                nodes.nodes.iter().map(|node| of(&node.name)).collect()
            }
            None => vec![Server { name: connection.client.server_info().server_name, version }],
        };
        let mut folders: Vec<_> = summers.iter().map(|summer| (summer.name.clone(), summer.folder.clone())).collect();
        if let Some(nodes) = &nodes {
            folders.extend(nodes.nodes.iter().enumerate().map(|(n, node)| (node.name.clone(), nodes.store(n))));
        }
        let injector = Injector {
            crew: self.crew.clone(),
            nodes,
            summers,
            connection,
            names: system,
            partitions: agreed.partitions,
            streams,
        };
        Ok(Some(Set {
            nats,
            over_links,
            topology,
            servers,
            replicas: agreed.replicas,
            partitions: agreed.partitions,
            injector: Arc::new(injector),
            folders,
            baseline_stream,
            baseline_subject,
            past_links,
        }))
    }

    /// Has the processes kept running by a task of their own, which does to them what the crew is told.
    pub fn hand_over(&mut self) -> Option<Kept> {
        let (mut children, mut orders) = (self.children.take()?, self.orders.take()?);
        let over = CancellationToken::new();
        let is_over = over.clone();
        let keeping = tokio::spawn(async move {
            let error = orders.carry_out(&mut children, &is_over).await;
            (children, orders, error)
        });
        Some(Kept { keeping, over })
    }

    /// Takes them back, once the order under way is carried out.
    pub async fn take_back(&mut self, kept: Kept) {
        kept.over.cancel();
        let given = joined(kept.keeping.await);
        self.take_back_from(given);
    }

    /// Takes them back as they are, if they can't be kept running: why.
    pub fn take_back_from(&mut self, (children, orders, error): Given) -> Option<ChildError> {
        (self.children, self.orders) = (Some(children), Some(orders));
        error
    }

    /// Undoes whatever fault is under way: what stands still goes on, what is cut or gone is there again.
    pub async fn heal(&mut self, set: &Set) {
        let Some(children) = &mut self.children else { return };
        if let Some(nodes) = &set.injector.nodes {
            (0..nodes.nodes.len()).for_each(|node| _ = nodes.set(node, Mode::Through));
        }
        for (name, _) in &set.folders {
            children.signal(name, Signal::SIGCONT);
            children.release(name).ok();
        }
    }

    /// Compares what each server of a cluster holds, once nobody writes any more.
    pub async fn compare(&mut self, soak: &Soak, set: &Set) -> Option<Replicas> {
        let nodes = set.injector.nodes.as_ref().filter(|nodes| nodes.nodes.len() > 1)?;
        let children = self.children.as_mut()?;
        let deadline = Instant::now() + SUMMERS_STOPPING;
        children.stop(|name| soak.is_summer(name), deadline).await;
        let Injector { connection, streams, .. } = &*set.injector;
        let failed = |cause: String| Replicas { differences: vec![cause], ..Replicas::default() };
        let preparing = replicas::prepare(&connection.jetstream, streams);
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            error = children.supervise() => Err(error.to_string()),
        };
        let extents = match prepared {
            Ok(extents) => extents,
            Err(cause) => return Some(failed(cause)),
        };
        nodes.part();
        let mut clients = Vec::new();
        for node in &nodes.nodes {
            let alone = connect::Config { servers: vec![node.url.clone()], ..set.past_links.clone() };
            match connect::connect(&alone, "stream-sum soak replicas").await {
                Ok(connection) => clients.push((node.name.clone(), connection.client.clone())),
                Err(error) => return Some(failed(error.to_string())),
            }
        }
        Some(replicas::compare(&clients, &extents).await)
    }

    /// Stops all processes, and removes what the run has made.
    pub async fn clear(&mut self, soak: &Soak) {
        let Some(mut children) = self.children.take() else { return };
        let deadline = Instant::now() + STOPPING;
        children.stop(|name| soak.is_summer(name), Instant::now() + SUMMERS_STOPPING).await;
        if let Some((connection, streams)) = self.made.take() {
            let removing = async {
                for stream in streams {
                    if let Err(error) = connection.jetstream.delete_stream(&stream).await {
                        tracing::warn!(%error, "the stream {stream} could not be removed: `nats stream rm {stream}`");
                    }
                }
            };
            timeout(REMOVING, removing).await.ok();
        }
        children.stop(|_| true, deadline.max(Instant::now() + Duration::from_secs(1))).await;
        children.close().await;
    }
}

impl Soak {
    fn is_summer(&self, name: &str) -> bool {
        name.starts_with("summer-")
    }
}

fn start_summers(
    soak: &Soak,
    folder: &Path,
    prefix: &str,
    environment: &[(String, String)],
    children: &mut Children,
) -> Result<Vec<Summer>, SoakError> {
    let mut summers = Vec::new();
    for n in 1..=soak.summers {
        let name = format!("summer-{n}");
        // On somebody's servers nobody else's are to be ousted.
        let worker = if prefix.is_empty() { name.clone() } else { format!("{}-{n}", prefix.replace('.', "-")) };
        let data_dir = folder.join(&name);
        let mut environment = environment.to_vec();
        environment.push(("STREAM_SUM_SUMMER__WORKER".to_owned(), worker.clone()));
        let (arguments, dir) = (soak.arguments.clone(), data_dir.clone());
        children.start(name.clone(), move || {
            let mut command = Command::new(children::program()?);
            command.args(&arguments).arg("summer").arg("--data-dir").arg(&dir);
            command.envs(environment.clone());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            Ok(command)
        })?;
        summers.push(Summer { name, worker, folder: data_dir });
    }
    Ok(summers)
}
