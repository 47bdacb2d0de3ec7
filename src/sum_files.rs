//! `sum`: checksums of real files through the pipeline, printed as `sha1sum` prints them.
//!
//! Each file is one stream. What is printed is the digest of its final; the file's own SHA-1, taken while it was read,
//! says whether that is right.

use crate::bus::admin::Admin;
use crate::bus::connect::{self, ConnectError};
use crate::bus::lanes::{Closed, LaneEntries};
use crate::bus::topology::{self, TopologyError};
use crate::chunk::{Chunk, SeqNo};
use crate::joined::joined;
use crate::run::{self, Run, RunError, Step, lock};
use crate::stream_id::StreamId;
use crate::sum::{RunningSum, Sum, Value};
use crate::telemetry;
use crate::values::{Size, Span};
use crate::verify::{Ending, Ledger};
use indicatif::ProgressBar;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Files that are read at once, each by a thread with a buffer of a piece.
const MOST_READING: usize = 16;

/// Files between the first one that is not printed yet and the last one that was begun.
const MOST_UNPRINTED: usize = 4096;

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
    #[error(
        "no final came within {deadline} for {files} file(s), the first of them {first}: see that summers fold every partition"
    )]
    NoFinal { deadline: Span, files: usize, first: String },
    #[error("the sums could not be printed: {0}")]
    Output(io::Error),
    #[error("interrupted before every file was summed")]
    Interrupted,
}

/// How the files fared.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files that could not be read.
    pub unreadable: usize,
    /// A final was not its file's SHA-1, was there twice, or belonged to no file.
    pub violated: bool,
    /// Why not every file was summed.
    pub failure: Option<SumError>,
}

/// Why there is nothing to print for a file.
enum Trouble {
    Unreadable(io::Error),
    Mismatched { found: Option<Value> },
    Missing,
}

/// What a reader thread has come to.
struct FileRead {
    index: usize,
    result: Result<Value, io::Error>,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a final may stay out.
    pub deadline: Span,
    /// The most bytes of one chunk batch.
    pub batch_bytes: Size,
}

/// Bytes of all the files whose size is known.
pub fn total_bytes(files: &[OsString]) -> u64 {
    let sizes = files.iter().filter_map(|file| fs::metadata(file).ok()).filter(Metadata::is_file);
    sizes.map(|file| file.len()).sum()
}

/// Sums `files` (`-` is standard input) and writes a line for each to `out`, in order. `progress` is told of the bytes
/// that are read.
pub async fn run(
    files: &[OsString],
    limits: Limits,
    nats: &connect::Config,
    topology: &topology::Config,
    progress: &ProgressBar,
    out: &mut impl Write,
    stop: CancellationToken,
) -> Result<Outcome, SumError> {
    let Limits { deadline, batch_bytes } = limits;
    let starting = async {
        let connection = connect::connect(nats, "sum").await?;
        let topology = Admin::new(&connection, topology, nats.shown_addresses()).check().await?;
        let options = run::Options {
            run: None,
            streams: u64::MAX,
            deadline: deadline.0,
            batch_bytes: batch_bytes.bytes(),
            patience: Some(deadline.0),
            workload: None,
        };
        let run = Run::start(&connection, &topology, options).await?;
        Ok::<_, SumError>((topology, run))
    };
    let (topology, run) = tokio::select! {
        () = stop.cancelled() => return Err(SumError::Interrupted),
        started = starting => started?,
    };
    let piece = topology.max_chunk_bytes.min(PIECE);
    let mut summing = Summing {
        files,
        deadline,
        ledger: run.ledger(),
        entries: run.entries(),
        run,
        piece,
        idle_expiry: Duration::from_nanos(u64::try_from(topology.expiry.idle).unwrap_or(u64::MAX)),
        progress: progress.clone(),
        readers: JoinSet::new(),
        begun: 0,
        read: BTreeMap::new(),
        settled: BTreeMap::new(),
        printed: 0,
        unreadable: 0,
    };
    let failure = match summing.drive(out, &stop).await {
        Ok(()) => summing.run.catch_up().await.err().map(SumError::from),
        Err(failure) => Some(failure),
    };
    // No thread stays behind in a full lane.
    summing.entries.close();
    let counts = *lock(&summing.ledger).counts();
    let violated = counts.mismatched + counts.duplicate + counts.unexpected > 0;
    Ok(Outcome { unreadable: summing.unreadable, violated, failure })
}

struct Summing<'a> {
    files: &'a [OsString],
    deadline: Span,
    run: Run,
    ledger: Arc<Mutex<Ledger>>,
    entries: LaneEntries,
    piece: usize,
    idle_expiry: Duration,
    progress: ProgressBar,
    readers: JoinSet<FileRead>,
    /// Files that were begun, in order.
    begun: usize,
    /// The SHA-1 of files that were read and whose finals have not come.
    read: BTreeMap<usize, Value>,
    /// What is to be printed for files after the last one printed.
    settled: BTreeMap<usize, Result<Value, Trouble>>,
    printed: usize,
    unreadable: usize,
}

impl Summing<'_> {
    async fn drive(&mut self, out: &mut impl Write, stop: &CancellationToken) -> Result<(), SumError> {
        while self.printed < self.files.len() {
            while self.begun < self.files.len()
                && self.readers.len() < MOST_READING
                && self.begun < self.printed + MOST_UNPRINTED
            {
                self.begin();
            }
            tokio::select! {
                () = stop.cancelled() => return Err(SumError::Interrupted),
                Some(read) = self.readers.join_next(), if !self.readers.is_empty() => {
                    let FileRead { index, result } =
                        joined(read);
                    match result {
                        Ok(value) => { self.read.insert(index, value); }
                        Err(error) => { self.settled.insert(index, Err(Trouble::Unreadable(error))); }
                    }
                }
                step = self.run.step() => {
                    match step? {
                        Step::Ended { id, ending, sum } => self.ended(id, ending, sum),
                        Step::Tick => self.see_that_finals_come()?,
                        Step::Nothing => {}
                    }
                }
            }
            self.print(out)?;
        }
        Ok(())
    }

    fn begin(&mut self) {
        let index = self.begun;
        self.begun += 1;
        let id = StreamId::of_run(self.run.prefix, index as u64);
        lock(&self.ledger).open(id);
        let name = self.files[index].clone();
        let source = match name == "-" {
            false => Source::File,
            true if self.files[..index].contains(&name) => Source::StdinAgain,
            true => Source::Stdin,
        };
        let reader = Reader {
            name,
            source,
            id,
            piece: self.piece,
            idle_expiry: self.idle_expiry,
            progress: self.progress.clone(),
            ledger: self.ledger.clone(),
            entries: self.entries.clone(),
            began: self.run.began(),
        };
        self.readers.spawn_blocking(move || {
            let result = reader.read();
            if result.is_err() {
                lock(&reader.ledger).give_up(id);
            }
            FileRead { index, result }
        });
    }

    fn ended(&mut self, id: StreamId, ending: Ending, sum: Option<Sum>) {
        let Some(index) = id.nth_of_run(self.run.prefix).and_then(|n| usize::try_from(n).ok()) else { return };
        let result = match (ending, sum) {
            // Late is right all the same.
            (Ending::Verified | Ending::Late, Some(sum)) => Ok(sum.value),
            (Ending::Missing, _) => Err(Trouble::Missing),
            (_, sum) => Err(Trouble::Mismatched { found: sum.map(|sum| sum.value) }),
        };
        if index >= self.printed {
            self.settled.insert(index, result);
        }
    }

    /// Gives up when a final stays out for longer than the deadline.
    fn see_that_finals_come(&self) -> Result<(), SumError> {
        let ledger = lock(&self.ledger);
        let longest = ledger.longest_wait(self.run.began().elapsed());
        let Some((id, _)) = longest.filter(|(_, longest)| *longest > self.deadline.0) else { return Ok(()) };
        let index = id.nth_of_run(self.run.prefix).and_then(|n| usize::try_from(n).ok());
        let first = index.and_then(|index| self.files.get(index)).map(|name| shown(name)).unwrap_or_default();
        Err(SumError::NoFinal { deadline: self.deadline, files: ledger.awaited(), first })
    }

    fn print(&mut self, out: &mut impl Write) -> Result<(), SumError> {
        while let Some(result) = self.settled.remove(&self.printed) {
            let index = self.printed;
            let own = self.read.remove(&index);
            if own.is_none() && !matches!(result, Err(Trouble::Unreadable(_))) {
                // Its final was quicker than its reader, who knows the SHA-1.
                self.settled.insert(index, result);
                return Ok(());
            }
            self.printed += 1;
            let name = &self.files[index];
            match result {
                Ok(value) => {
                    out.write_all(&line(value, name)).and_then(|()| out.flush()).map_err(SumError::Output)?;
                }
                Err(Trouble::Unreadable(error)) => {
                    self.unreadable += 1;
                    complain(name, &plain(&error));
                }
                Err(Trouble::Mismatched { found }) => {
                    let text = |value: Option<Value>| value.map_or("no digest".to_owned(), |value| value.to_string());
                    complain(name, &format!("its final says {}, but its SHA-1 is {}", text(found), text(own)));
                }
                Err(Trouble::Missing) => {
                    complain(name, "no final came");
                }
            }
        }
        Ok(())
    }
}

fn complain(name: &OsStr, what: &str) {
    telemetry::say(&format!("stream-sum: {}: {what}", shown(name)));
}

/// A file's name on one line, whatever is in it.
fn shown(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if name.chars().any(char::is_control) { format!("{name:?}") } else { name.into_owned() }
}

/// What an error says, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

/// A line as `sha1sum` writes it: names with a backslash, a newline or a carriage return are escaped, and the line
/// says so with a leading backslash.
fn line(value: Value, name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    let mut line = Vec::with_capacity(64 + name.len());
    if name.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        line.push(b'\\');
    }
    line.extend_from_slice(value.to_string().as_bytes());
    line.extend_from_slice(b"  ");
    for byte in name {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(*byte),
        }
    }
    line.push(b'\n');
    line
}

#[derive(Clone, Copy)]
enum Source {
    File,
    Stdin,
    /// The first to name it has read it to its end.
    StdinAgain,
}

/// Reads one file on a thread of its own and hands it on in chunks.
struct Reader {
    name: OsString,
    source: Source,
    id: StreamId,
    piece: usize,
    /// How long a stream is remembered without a chunk.
    idle_expiry: Duration,
    progress: ProgressBar,
    ledger: Arc<Mutex<Ledger>>,
    entries: LaneEntries,
    began: tokio::time::Instant,
}

impl Reader {
    fn read(&self) -> io::Result<Value> {
        match self.source {
            Source::File => self.send(&mut File::open(&self.name)?),
            Source::Stdin => self.send(&mut io::stdin().lock()),
            Source::StdinAgain => self.send(&mut io::empty()),
        }
    }

    fn send(&self, input: &mut impl Read) -> io::Result<Value> {
        let mut buffer = vec![0; self.piece];
        let mut sum: Option<RunningSum> = None;
        let mut ended = false;
        let mut sent_at: Option<Instant> = None;
        loop {
            // After the end nothing is read again: a terminal or a pipe might have more to say.
            let filled = if ended { 0 } else { fill(input, &mut buffer)? };
            ended = filled < buffer.len();
            let data = &buffer[..filled];
            self.progress.inc(filled as u64);
            if sent_at.is_some_and(|sent_at| sent_at.elapsed() >= self.idle_expiry) {
                return Err(self.forgotten());
            }
            let seq_no = sum.as_ref().map_or(SeqNo::FIRST, |sum| sum.seq_no().next());
            let chunk = Chunk { id: self.id, seq_no, data };
            match &mut sum {
                None => sum = Some(RunningSum::open(&chunk)),
                Some(sum) => sum.update(&chunk).expect("chunks are made in order"),
            }
            let value = sum.as_ref().filter(|_| chunk.closes()).map(RunningSum::value);
            if let Some(value) = value {
                let mut ledger = lock(&self.ledger);
                ledger.close(Sum { id: self.id, seq_no, value }, self.began.elapsed());
            }
            self.entries.push(&chunk).map_err(|Closed| io::Error::other(Closed))?;
            if let Some(value) = value {
                return Ok(value);
            }
            sent_at = Some(Instant::now());
        }
    }

    /// A chunk now would be one of an unknown stream, and rejected.
    fn forgotten(&self) -> io::Error {
        let idle_expiry = humantime::format_duration(self.idle_expiry);
        io::Error::other(format!(
            "less than a chunk of {} bytes came within topology.idle_expiry, {idle_expiry}, after which a stream may be forgotten: \
             sum it once all of it is there",
            self.piece
        ))
    }
}

/// Reads until the buffer is full or the input ends: a short read must not look like the end.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_as_sha1sum_escapes_them() {
        let value = Value([0xab; 20]);
        let hex = "ab".repeat(20);
        for (name, escaped) in
            [("a b", "  a b\n"), ("a\\b", "  a\\\\b\n"), ("a\nb", "  a\\nb\n"), ("a\rb", "  a\\rb\n"), ("-", "  -\n")]
        {
            let mark = if name.contains(['\\', '\n', '\r']) { "\\" } else { "" };
            assert_eq!(line(value, OsStr::new(name)), format!("{mark}{hex}{escaped}").into_bytes());
        }
    }

    #[test]
    fn short_reads_fill_whole_pieces() {
        struct Drip(u8);
        impl Read for Drip {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.saturating_sub(1);
                buffer[..1].fill(self.0);
                Ok(usize::from(self.0 > 0))
            }
        }
        let mut buffer = [0; 4];
        let mut drip = Drip(7);
        assert_eq!(fill(&mut drip, &mut buffer).unwrap(), 4);
        assert_eq!(fill(&mut drip, &mut buffer).unwrap(), 2);
        assert_eq!(fill(&mut drip, &mut buffer).unwrap(), 0);
    }
}
