//! Files on their way through the pipeline: begun in order, ended in any, and told of in order again.

use crate::roles::sum_files::feed::{Entry, Named};
use crate::roles::sum_files::open_files;
use crate::roles::sum_files::quote::{Charset, quoted};
use crate::roles::sum_files::reader::Desk;
use crate::roles::sum_files::results::{Results, Said, Trouble};
use crate::roles::sum_files::unfolded;
use crate::roles::sum_files::{Outcome, SumError};
use crate::run::ledger::Ending;
use crate::run::{Run, Step, lock};
use crate::sum::running::{Sum, Value};
use crate::sum::stream_id::StreamId;
use crate::telemetry;
use jetfold::joined;
use jetfold::nats::connect;
use jetfold::nats::names::Names;
use jetfold::nats::standing;
use jetfold::values::Span;
use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Entries between the first one that was not told of yet and the last one that was begun.
const MOST_UNTOLD: usize = 4096;

/// How long a final stays out before it is asked who folds.
const LONG: Duration = Duration::from_secs(3);

/// How often that is asked, at the most.
const QUESTIONS: Duration = Duration::from_secs(10);

/// How long workers may take to answer.
const ANSWERS: Duration = Duration::from_secs(1);

/// An entry that was begun and not told of.
struct Begun {
    entry: Entry,
    /// The SHA-1 that its reader found.
    own: Option<Value>,
    /// What it has come to.
    result: Option<Result<Value, Trouble>>,
}

/// What a reader thread has come to.
struct FileRead {
    n: u64,
    result: io::Result<Value>,
}

pub(super) struct Summing {
    run: Run,
    desk: Desk,
    feed: mpsc::Receiver<Entry>,
    /// No more entries come.
    is_fed: bool,
    results: Results,
    deadline: Span,
    charset: Charset,
    most_reading: usize,
    readers: JoinSet<FileRead>,
    begun: VecDeque<Begun>,
    /// How many entries were told of: the number of the first of `begun`, and of its stream in the run.
    told: u64,
    next_question: Instant,
}

impl Summing {
    pub fn new(
        run: Run,
        desk: Desk,
        feed: mpsc::Receiver<Entry>,
        results: Results,
        deadline: Span,
        charset: Charset,
    ) -> Self {
        Self {
            next_question: run.began(),
            run,
            desk,
            feed,
            is_fed: false,
            results,
            deadline,
            charset,
            most_reading: open_files::most_reading(),
            readers: JoinSet::new(),
            begun: VecDeque::new(),
            told: 0,
        }
    }

    /// Sums everything, and writes the results to `out`.
    pub async fn drive(
        mut self,
        nats: connect::Config,
        names: &Names,
        out: &mut impl Write,
        stop: &CancellationToken,
    ) -> Outcome {
        let failure = match self.sum(&nats, names, out, stop).await {
            Ok(()) => self.run.catch_up().await.err().map(SumError::from),
            Err(failure) => Some(failure),
        };
        // No thread stays behind in a full lane.
        self.desk.entries.close();
        let counts = *lock(&self.desk.ledger).counts();
        let violated = counts.mismatched + counts.duplicate + counts.unexpected > 0;
        Outcome { failed: self.results.failed(), violated, failure }
    }

    async fn sum(
        &mut self,
        nats: &connect::Config,
        names: &Names,
        out: &mut impl Write,
        stop: &CancellationToken,
    ) -> Result<(), SumError> {
        while !(self.is_fed && self.begun.is_empty()) {
            let may_begin = self.readers.len() < self.most_reading && self.begun.len() < MOST_UNTOLD;
            tokio::select! {
                () = stop.cancelled() => return Err(SumError::Interrupted),
                entry = self.feed.recv(), if !self.is_fed && may_begin => match entry {
                    Some(entry) => self.begin(entry),
                    None => self.is_fed = true,
                },
                Some(read) = self.readers.join_next() => self.read(joined(read)),
                step = self.run.step() => match step? {
                    Step::Ended { id, ending, sum } => self.ended(id, ending, sum),
                    Step::Tick => self.see_that_finals_come(nats, names).await?,
                    Step::Nothing => {}
                },
            }
            self.tell(out)?;
        }
        Ok(())
    }

    fn begin(&mut self, entry: Entry) {
        let n = self.told + self.begun.len() as u64;
        if let Entry::File(Named { name, source, .. }) = &entry {
            let id = StreamId::of_run(self.run.prefix, n);
            lock(&self.desk.ledger).open(id);
            let (desk, name, source) = (self.desk.clone(), name.clone(), *source);
            self.readers.spawn_blocking(move || FileRead { n, result: desk.read(&name, source, id) });
        }
        self.begun.push_back(Begun { entry, own: None, result: None });
    }

    /// The entry of a number, unless it was told of.
    fn nth(&mut self, n: u64) -> Option<&mut Begun> {
        let place = usize::try_from(n.checked_sub(self.told)?).ok()?;
        self.begun.get_mut(place)
    }

    fn read(&mut self, FileRead { n, result }: FileRead) {
        let begun = self.nth(n).expect("nothing is told of a file that is being read");
        match result {
            Ok(value) => begun.own = Some(value),
            Err(error) => begun.result = Some(Err(Trouble::Unreadable(error))),
        }
    }

    fn ended(&mut self, id: StreamId, ending: Ending, sum: Option<Sum>) {
        let Some(begun) = id.nth_of_run(self.run.prefix).and_then(|n| self.nth(n)) else { return };
        begun.result = Some(match (ending, sum) {
            // Late is right all the same.
            (Ending::Verified | Ending::Late, Some(sum)) => Ok(sum.value),
            (Ending::Missing, _) => Err(Trouble::NoFinal),
            (_, sum) => Err(Trouble::Mismatched { found: sum.map(|sum| sum.value), own: None }),
        });
    }

    /// Says what has come of the first entries, as far as that is known.
    fn tell(&mut self, out: &mut impl Write) -> Result<(), SumError> {
        while let Some(Begun { entry, own, result }) = self.begun.front_mut() {
            let said = match entry {
                Entry::File(file) => {
                    let is_read = own.is_some() || matches!(result, Some(Err(Trouble::Unreadable(_))));
                    // A final may be quicker than its reader, who knows the SHA-1.
                    let Some(mut result) = result.take_if(|_| is_read) else { return Ok(()) };
                    if let Err(Trouble::Mismatched { own: told, .. }) = &mut result {
                        *told = *own;
                    }
                    self.results.file(file, result)
                }
                entry => self.results.note(entry),
            };
            self.begun.pop_front();
            self.told += 1;
            let Said { complaints, out: text } = said;
            complaints.iter().for_each(|complaint| telemetry::say(&format!("stream-sum: {complaint}")));
            if !text.is_empty() {
                out.write_all(&text).and_then(|()| out.flush()).map_err(SumError::Output)?;
            }
        }
        Ok(())
    }

    /// Asks who folds when a final stays out for long, and gives up when it does for longer than the deadline.
    async fn see_that_finals_come(&mut self, nats: &connect::Config, names: &Names) -> Result<(), SumError> {
        let (longest, files) = {
            let ledger = lock(&self.desk.ledger);
            (ledger.longest_wait(self.run.began().elapsed()), ledger.awaited())
        };
        let Some((id, longest)) = longest else { return Ok(()) };
        if longest > self.deadline.0 {
            let why = why_none_come(nats, names, &self.awaited_from()).await;
            let why = why.unwrap_or_else(|| "see by `stream-sum status` how far each partition is".to_owned());
            let entry = id.nth_of_run(self.run.prefix).and_then(|n| self.nth(n)).map(|begun| &begun.entry);
            let name = if let Some(Entry::File(file)) = entry { file.name.as_bytes().to_vec() } else { Vec::new() };
            let first = quoted(&name, self.charset);
            return Err(SumError::NoFinal { deadline: self.deadline, files, first, why });
        }
        if longest > LONG && Instant::now() >= self.next_question {
            self.next_question = Instant::now() + QUESTIONS;
            let (nats, names, partitions) = (nats.clone(), names.clone(), self.awaited_from());
            tokio::spawn(async move {
                if let Some(why) = why_none_come(&nats, &names, &partitions).await {
                    tracing::warn!("finals stay out: {why}");
                }
            });
        }
        Ok(())
    }

    /// The partitions of the files that were sent and have no final.
    fn awaited_from(&self) -> BTreeSet<u32> {
        let partitions = self.desk.entries.partitions();
        let awaited = (self.told..).zip(&self.begun).filter(|(_, begun)| begun.own.is_some() && begun.result.is_none());
        awaited.map(|(n, _)| StreamId::of_run(self.run.prefix, n).partition(partitions)).collect()
    }
}

/// Asks the workers why nothing comes of these partitions; `None` where they don't know of a reason.
async fn why_none_come(nats: &connect::Config, names: &Names, partitions: &BTreeSet<u32>) -> Option<String> {
    // Nobody is known by name: whoever is there has to answer within this time.
    // On a connection of its own: whoever may not ask this may still sum.
    let connecting = tokio::time::timeout(ANSWERS, connect::connect_another(nats, "stream-sum sum status"));
    let connection = connecting.await.ok()?.ok()?;
    match standing::ask(&connection, names, BTreeSet::new(), ANSWERS, ANSWERS).await {
        Ok(told) => unfolded::explain(partitions, &told),
        Err(cause) => {
            tracing::debug!(%cause, "no answer about who folds");
            None
        }
    }
}
