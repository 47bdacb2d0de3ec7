//! `sum`: checksums of real files through the pipeline, printed, or compared with lists of them, as `sha1sum` does.
//!
//! Each file is one stream. What counts as its checksum is the digest of its final; the file's own SHA-1, taken while it
//! was read, says whether that is right.
//!
//! 1. [`feed`] names what is to be summed, in order: a list of checksums is a list of files. [`checksum_line`] reads it.
//! 2. A thread for each of a few files reads it and hands it on in chunks; [`open_files`] keeps to the descriptors that
//!    the process may have.
//! 3. Finals come back in any order. [`results`] says, in the order of the files, what each has come to, and [`quote`] how
//!    a name is shown.
//! 4. Where finals stay out, [`unfolded`] says which partitions nobody folds.

pub mod checksum_line;
pub mod feed;
pub mod open_files;
pub mod quote;
mod reader;
pub mod results;
mod summing;
pub mod task;
pub mod unfolded;

use crate::roles::sum_files::open_files::OpenFiles;
use crate::roles::sum_files::quote::Charset;
use crate::roles::sum_files::reader::Desk;
use crate::roles::sum_files::results::Results;
use crate::roles::sum_files::summing::Summing;
use crate::roles::sum_files::task::Task;
use crate::run::endings::Endings;
use crate::run::{self, Run, RunError};
use crate::sum::topology_section;
use indicatif::ProgressBar;
use jetfold::nats::connect::{self, ConnectError};
use jetfold::nats::topology::TopologyError;
use jetfold::values::{Size, Span};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Data of one chunk, at the most.
const PIECE: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum SumError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("no final came within {deadline} for {files} file(s), the first of them {first}: {why}")]
    NoFinal { deadline: Span, files: usize, first: String, why: String },
    #[error("the sums could not be printed: {0}")]
    Output(io::Error),
    #[error("interrupted before every file was summed")]
    Interrupted,
}

/// What is to be summed, and what for.
#[derive(Clone, Debug)]
pub struct Request {
    pub task: Task,
    /// Files, or lists of checksums to compare; `-` is standard input.
    pub names: Vec<OsString>,
    /// This process was started without a standard input.
    pub stdin_closed: bool,
    /// How names are shown.
    pub charset: Charset,
}

impl Request {
    /// Bytes of all the files whose size is known beforehand.
    pub fn total_bytes(&self) -> u64 {
        let files = if let Task::Print(_) = self.task { &self.names[..] } else { &[] };
        let sizes = files.iter().filter_map(|file| fs::metadata(file).ok()).filter(Metadata::is_file);
        sizes.map(|file| file.len()).sum()
    }
}

/// How the files fared.
#[derive(Debug, Default)]
pub struct Outcome {
    /// A file or list could not be read, or has another checksum than its list says.
    pub failed: bool,
    /// A final was not its file's SHA-1, was there twice, or belonged to no file.
    pub violated: bool,
    /// Why not every file was summed.
    pub failure: Option<SumError>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a final may stay out.
    pub deadline: Span,
    /// The most bytes of one chunk batch.
    pub batch_bytes: Size,
}

/// Does what is asked for, and writes the results to `out`, in order. `progress` is told of the bytes that are read.
pub async fn run(
    request: Request,
    limits: Limits,
    nats: &connect::Config,
    topology: &topology_section::Config,
    progress: &ProgressBar,
    out: &mut impl Write,
    stop: CancellationToken,
) -> Result<Outcome, SumError> {
    let Limits { deadline, batch_bytes } = limits;
    let starting = async {
        let connection = connect::connect(nats, "stream-sum sum").await?;
        let admin = topology.admin(&connection, nats.shown_addresses());
        let topology = connection.unless_denied(admin.check()).await??;
        let options = run::Options {
            ids: run::Ids::Drawn,
            streams: u64::MAX,
            deadline: deadline.0,
            batch_bytes: batch_bytes.bytes(),
            patience: Some(deadline.0),
            workload: None,
            endings: Endings::default(),
        };
        let run = connection.unless_denied(Run::start(&connection, &topology, options)).await??;
        Ok::<_, SumError>((topology, run))
    };
    let (topology, run) = tokio::select! {
        () = stop.cancelled() => return Err(SumError::Interrupted),
        started = starting => started?,
    };
    let Request { task, names, stdin_closed, charset } = request;
    let files = OpenFiles::default();
    let desk = Desk {
        files: files.clone(),
        piece: topology.application.rules().max_chunk_bytes.min(PIECE),
        idle_expiry: Duration::from_nanos(u64::try_from(topology.application.rules().expiry.idle).unwrap_or(u64::MAX)),
        progress: progress.clone(),
        ledger: run.ledger(),
        entries: run.entries(),
        began: run.began(),
    };
    let feed = feed::feed(names, matches!(task, Task::Check(_)), stdin_closed, files);
    let summing = Summing::new(run, desk, feed, Results::new(task, charset), deadline, charset);
    Ok(summing.drive(nats.clone(), &topology.names, out, &stop).await)
}
