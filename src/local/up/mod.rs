//! `up`: the local stack. A nats-server of its own, the topology, summers as processes of their own, and a chunker in
//! this one, whose ledger is the result.

pub mod children;
pub mod keeper;

use crate::local::nats_server::{self, ServerError};
use crate::local::server::{LocalServer, LocalServerError};
use crate::roles::chunker::{self, ChunkerConfig, ChunkerError, generate_and_verify_streams};
use crate::run::report::Report;
use crate::sum::Summer;
use crate::sum::names::{FinalNames, names};
use crate::sum::topology_section;
use crate::telemetry;
use children::{ChildError, Children};
use jetfold::joined;
use jetfold::nats::admin::{Admin, Allowed};
use jetfold::nats::connect::{self, ConnectError, Connection};
use jetfold::nats::standing::{self, CannotAsk};
use jetfold::nats::topology::{Topology, TopologyError};
use jetfold::values::Span;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const SERVER: &str = "nats-server";

/// Summers where nobody says how many.
pub const SUMMERS: u32 = 2;

/// How long a private stack remembers finals and completed streams.
const REMEMBERED: Duration = Duration::from_secs(300);

/// How long nats-server may take to listen; it looks through its whole store first.
const LISTENING: Duration = Duration::from_secs(60);

/// How long summers may take to answer before the chunker starts without them.
const ANSWERING: Duration = Duration::from_secs(10);

/// How long all of it may take to stop.
const STOPPING: Duration = Duration::from_secs(9);

/// How much of that is for the server, which comes last.
const SERVER_STOPPING: Duration = Duration::from_secs(1);

/// How long summers may take for one answer.
const PATIENCE: Duration = Duration::from_secs(1);

const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("the folder {} can't be used ({source}): name another with --data-dir", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("no temporary folder can be made in {} ({source}): set TMPDIR, or name a folder with --data-dir", path.display())]
    NoTemporaryFolder { path: PathBuf, source: io::Error },
    #[error(
        "there are {summers} summers for {partitions} partitions: ask for fewer with --summers, or more --partitions"
    )]
    TooManySummers { summers: u32, partitions: u32 },
    #[error(transparent)]
    NoServerProgram(#[from] ServerError),
    #[error(transparent)]
    Server(#[from] LocalServerError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    CannotAsk(#[from] CannotAsk),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error(transparent)]
    Chunker(#[from] ChunkerError),
}

impl UpError {
    /// The exit code with which a child said that it can't go on.
    pub fn code_of_child(&self) -> Option<i32> {
        match self {
            Self::Child(ChildError::GaveUp { code, .. }) => Some(*code),
            _ => None,
        }
    }
}

/// What is to run.
pub struct Stack {
    /// Where it is not said, [`SUMMERS`] or as many as there are partitions.
    pub summers: Option<u32>,
    /// Of the private server; any free one where there is none.
    pub port: Option<u16>,
    /// Kept; where there is none, a temporary folder, which is not.
    pub data_dir: Option<PathBuf>,
    /// What every summer gets on its command line before its command.
    pub arguments: Vec<OsString>,
    /// What every summer gets in its environment beside this process's.
    pub environment: Vec<(String, String)>,
    /// Without servers a private one is started.
    pub nats: connect::Config,
    /// Told how NATS is reached, once that is known.
    pub known: watch::Sender<Option<connect::Config>>,
    pub topology: topology_section::Config,
    pub chunker: ChunkerConfig,
    pub choices: chunker::Choices,
}

/// How a run of the stack has ended.
pub struct Outcome {
    pub chunking: chunker::Outcome,
    /// Why the stack could not be kept running.
    pub failure: Option<UpError>,
}

/// Where everything is kept. A temporary folder is the keeper's to remove, once there is one.
pub enum Folder {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Folder {
    pub fn new(kept: Option<&Path>) -> Result<Self, UpError> {
        let Some(path) = kept else {
            let folder = tempfile::Builder::new().prefix("stream-sum-").tempdir();
            let refuse = |source| UpError::NoTemporaryFolder { path: std::env::temp_dir(), source };
            return Ok(Self::Temporary(folder.map_err(refuse)?));
        };
        let refuse = |source| UpError::Folder { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refuse)?;
        // Absolute, as nats-server's own files name it.
        Ok(Self::Kept(fs::canonicalize(path).map_err(refuse)?))
    }

    pub fn children(self) -> Result<(Children, PathBuf), ChildError> {
        match self {
            Self::Kept(path) => Ok((Children::new(None)?, path)),
            Self::Temporary(folder) => Ok((Children::new(Some(folder.path()))?, folder.keep())),
        }
    }
}

/// Runs the stack until every stream has ended or `stop`. `reports` is told how the run stands.
pub async fn run(stack: Stack, reports: watch::Sender<Report>, stop: CancellationToken) -> Result<Outcome, UpError> {
    let (mut children, folder) = Folder::new(stack.data_dir.as_deref())?.children()?;
    // From the first signal on, or from the end of the run.
    let deadline = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            Instant::now() + STOPPING
        }
    };
    let mut deadline = tokio::spawn(deadline);
    let outcome = drive(&stack, &folder, &mut children, reports, stop.clone()).await;
    let deadline = match stop.is_cancelled() {
        true => (&mut deadline).await.unwrap_or_else(|_| Instant::now()),
        false => Instant::now() + STOPPING,
    };
    // Summers first: they drain into a server that is still there.
    children.stop(|name| name != SERVER, deadline - SERVER_STOPPING).await;
    children.stop(|_| true, deadline).await;
    let given_up = children.close().await;
    let mut outcome = outcome?;
    outcome.failure = outcome.failure.or(given_up.map(UpError::from));
    Ok(outcome)
}

async fn drive(
    stack: &Stack,
    folder: &Path,
    children: &mut Children,
    reports: watch::Sender<Report>,
    stop: CancellationToken,
) -> Result<Outcome, UpError> {
    let nats = tokio::select! {
        () = stop.cancelled() => return Ok(Outcome { chunking: chunker::Outcome::default(), failure: None }),
        started = start(stack, folder, children) => started?,
    };
    let stop_chunking = stop.child_token();
    let (config, choices, topology) = (stack.chunker.clone(), stack.choices.clone(), stack.topology.clone());
    let chunking = {
        let stop = stop_chunking.clone();
        async move { generate_and_verify_streams(&config, choices, &nats, &topology, &reports, stop).await }
    };
    let mut chunking = tokio::spawn(chunking);
    let (chunked, failure) = tokio::select! {
        chunked = &mut chunking => (chunked, None),
        error = children.supervise() => {
            stop_chunking.cancel();
            (chunking.await, Some(error.into()))
        }
    };
    let chunking = joined(chunked)?;
    Ok(Outcome { chunking, failure })
}

/// Everything up to the first chunk. Returns how NATS is reached.
async fn start(stack: &Stack, folder: &Path, children: &mut Children) -> Result<connect::Config, UpError> {
    let mut nats = stack.nats.clone();
    let mut topology = stack.topology.clone();
    let store = if nats.servers.is_empty() {
        remember_less(&mut topology);
        let server = start_server(stack, folder, children).await?;
        nats.servers = vec![server.url()];
        Some(server.store())
    } else {
        None
    };
    let connection = connect::connect(&nats, "stream-sum up").await?;
    stack.known.send_replace(Some(nats.clone()));
    let shown = nats.shown_addresses();
    let admin = topology.admin(&connection, shown.clone());
    let topology = connection.unless_denied(agree(stack, &admin)).await??;
    let version = connection.client.server_info().version;
    let which = match (&store, children.pid(SERVER)) {
        (Some(store), Some(pid)) => format!(" (pid {pid}), store in {}", store.display()),
        _ => String::new(),
    };
    tell("nats-server", &format!("{version} at {shown}{which}"));
    let workers = start_summers(stack, folder, &nats, &topology, children)?;
    let program = std::env::args_os().next().unwrap_or_else(|| "stream-sum".into());
    let arguments: Vec<_> = stack.arguments.iter().map(|argument| argument.to_string_lossy() + " ").collect();
    let shown = shown.replace(", ", ",");
    tell("watch it", &format!("{} {}--server {shown} status --watch", program.display(), arguments.concat()));
    tell("", &format!("nats --server {shown} stream report"));
    tokio::select! {
        answered = wait_for_answers(&connection, &topology, workers) => answered?,
        error = children.supervise() => return Err(error.into()),
    }
    Ok(nats)
}

/// Two columns: what, and where it is.
fn tell(what: &str, text: &str) {
    telemetry::say(&format!("{what:<12} {text}"));
}

async fn start_server(stack: &Stack, folder: &Path, children: &mut Children) -> Result<LocalServer, UpError> {
    // It may be brought from far away, by programs that are waited for.
    let finding = tokio::task::spawn_blocking(|| nats_server::find(&nats_server::tools()));
    let program = joined(finding.await)?;
    let mapping = names(&stack.topology.prefix).mapping(stack.topology.partitions);
    let address = stack.port.map(|port| (Ipv4Addr::LOCALHOST, port).into());
    let server = LocalServer::new(program, &folder.join("nats"), address, Some(&mapping), "")?;
    let server = Arc::new(Mutex::new(server));
    let lock = |server: &Mutex<LocalServer>| server.lock().expect("nothing panics while it holds the server").clone();
    let starts = server.clone();
    let start = move || starts.lock().expect("nothing panics while it holds the server").logged_command();
    let says = server.clone();
    let pid = children.start_other(SERVER, start, move || lock(&says).last_word())?;
    let deadline = Instant::now() + LISTENING;
    loop {
        let mut now = lock(&server);
        if now.listens(pid) {
            // From now on it is started again where it is.
            server.lock().expect("nothing panics while it holds the server").listens(pid);
            return Ok(now);
        }
        if Instant::now() >= deadline {
            return Err(LocalServerError::Deaf(LISTENING).into());
        }
        if tokio::time::timeout(PAUSE, children.first_end()).await.is_ok() {
            return Err(LocalServerError::Ended(lock(&server).last_word()).into());
        }
    }
}

/// Defaults for a private server: finals and rows are kept for minutes only, because at full speed they fill its memory and the
/// stores.
pub fn remember_less(topology: &mut topology_section::Config) {
    let short = Span(REMEMBERED);
    if !topology.stated.contains("sums_retention") {
        topology.sums_retention = topology.sums_retention.min(short);
    }
    if !topology.stated.contains("completed_expiry") {
        topology.completed_expiry = topology.completed_expiry.min(short);
    }
}

/// What the logs say where they are; made where they are not.
async fn agree(stack: &Stack, admin: &Admin<'_, Summer>) -> Result<Topology<Summer>, UpError> {
    let enough = |partitions| match stack.summers {
        Some(summers) if summers > partitions => Err(UpError::TooManySummers { summers, partitions }),
        _ => Ok(()),
    };
    match admin.check().await {
        Err(TopologyError::Missing { .. }) => {
            // Before anything is made that can't be changed.
            enough(stack.topology.partitions)?;
            admin.apply(Allowed::default()).await?;
            Ok(admin.check().await?)
        }
        checked => {
            let topology = checked?;
            enough(topology.partitions)?;
            Ok(topology)
        }
    }
}

/// Starts the summers, which share the partitions among themselves, and returns their names as workers.
fn start_summers(
    stack: &Stack,
    folder: &Path,
    nats: &connect::Config,
    topology: &Topology<Summer>,
    children: &mut Children,
) -> Result<BTreeSet<String>, UpError> {
    // On a server that is not its own, somebody else may be up too.
    let run = if stack.nats.servers.is_empty() { String::new() } else { hex::encode(rand::random::<[u8; 4]>()) + "-" };
    let mut workers = BTreeSet::new();
    let summers = stack.summers.unwrap_or(SUMMERS).min(topology.partitions);
    for summer in 0..summers {
        let worker = format!("{run}{summer}");
        let mut environment = stack.environment.clone();
        environment.push(("STREAM_SUM_SUMMER__WORKER".to_owned(), worker.clone()));
        if stack.nats.servers.is_empty() {
            environment.push(("STREAM_SUM_NATS__SERVERS".to_owned(), nats.servers.join(",")));
        }
        let (arguments, data_dir) = (stack.arguments.clone(), folder.join(format!("summer-{summer}")));
        let pid = children.start(format!("summer {summer}"), move || {
            let mut command = Command::new(children::program()?);
            command.args(&arguments).arg("summer").arg("--data-dir").arg(&data_dir);
            command.envs(environment.clone());
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            Ok(command)
        })?;
        tell(&format!("summer {summer}"), &format!("shares the partitions (pid {pid})"));
        workers.insert(worker);
    }
    Ok(workers)
}

/// Waits until every summer folds its share, so that the first streams wait for nobody.
pub async fn wait_for_answers(
    connection: &Connection,
    topology: &Topology<Summer>,
    workers: BTreeSet<String>,
) -> Result<(), CannotAsk> {
    let deadline = Instant::now() + ANSWERING;
    loop {
        let told = standing::ask(connection, &topology.names, workers.clone(), PATIENCE, Duration::ZERO).await?;
        let ours = told.iter().filter(|told| workers.contains(&told.worker));
        let mut folded = BTreeSet::new();
        let folding = ours.filter(|told| {
            let owned = told.partitions.iter().filter(|told| !told.follows && told.trouble.is_none());
            let before = folded.len();
            folded.extend(owned.map(|told| told.partition));
            folded.len() > before && told.partitions.iter().all(|told| !told.follows)
        });
        if folding.count() == workers.len() && folded.len() == topology.partitions as usize {
            return Ok(());
        }
        if Instant::now() >= deadline {
            tracing::warn!("not every summer answers after {} s: going on without waiting", ANSWERING.as_secs());
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
