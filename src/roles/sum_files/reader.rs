//! One file, read on a thread of its own and handed on in chunks.

use crate::roles::sum_files::feed::Source;
use crate::roles::sum_files::open_files::OpenFiles;
use crate::run::lanes::{Closed, LaneEntries};
use crate::run::ledger::Ledger;
use crate::run::lock;
use crate::sum::chunk::{Chunk, SeqNo};
use crate::sum::running::{RunningSum, Sum, Value};
use crate::sum::stream_id::StreamId;
use indicatif::ProgressBar;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the readers of one run have in common.
#[derive(Clone)]
pub(super) struct Desk {
    pub files: OpenFiles,
    /// Bytes of data of one chunk, at the most.
    pub piece: usize,
    /// How long a stream is remembered without a chunk.
    pub idle_expiry: Duration,
    pub progress: ProgressBar,
    pub ledger: Arc<Mutex<Ledger>>,
    pub entries: LaneEntries,
    pub began: tokio::time::Instant,
}

impl Desk {
    /// Hands on all of a file as the stream `id`, and returns its SHA-1. Blocks the thread.
    pub fn read(&self, name: &OsString, source: Source, id: StreamId) -> io::Result<Value> {
        let result = match source {
            Source::File => self.files.open(Path::new(name)).and_then(|mut file| self.send(&mut file, id)),
            Source::Stdin => self.send(&mut io::stdin().lock(), id),
            Source::StdinAgain => self.send(&mut io::empty(), id),
            Source::StdinClosed => Err(io::Error::from_raw_os_error(libc::EBADF)),
        };
        if result.is_err() {
            lock(&self.ledger).give_up(id);
        }
        result
    }

    fn send(&self, input: &mut impl Read, id: StreamId) -> io::Result<Value> {
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
            let chunk = Chunk { id, seq_no, data };
            match &mut sum {
                None => sum = Some(RunningSum::open(&chunk)),
                Some(sum) => sum.update(&chunk).expect("chunks are made in order"),
            }
            let value = sum.as_ref().filter(|_| chunk.closes()).map(RunningSum::value);
            if let Some(value) = value {
                let mut ledger = lock(&self.ledger);
                ledger.close(Sum { id, seq_no, value }, self.began.elapsed());
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
