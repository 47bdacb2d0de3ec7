//! What is folded: all that the machine knows of one application.
//!
//! An application says what a record does to the row of its key. The machine does the rest: it keeps rows, reads and commits them,
//! publishes what is put out, and starts again from a checkpoint. So everything here is pure: what a call returns may depend
//! on its arguments and on `self` as it was made, and on nothing else, no clock, no random number, no earlier call. A replay
//! of the log must arrive at the same place.

use crate::checkpoint::Position;
use crate::key::Key;
use crate::time::{LogTime, UnixNanos};
use crate::words::Words;
use std::collections::BTreeMap;
use std::fmt;

/// A deterministic fold of a partitioned log, and what it puts out.
pub trait Application: Clone + Send + Sync + 'static {
    /// What everything of it is called: keys of metadata begin with it, connections, and the first bytes of its snapshots.
    const NAME: &'static str;
    /// The version of what producers write and of the fold. Every process of a system must have the same.
    const FORMAT: u32 = 1;
    /// Older formats that this version takes over: it raises them when the JetStream objects are made again.
    const OLDER_FORMATS: &'static [u32] = &[];
    /// The table of rows in a store's file.
    const ROWS: &'static str = "rows";
    /// What things are called.
    const WORDS: Words = Words::DEFAULT;
    /// How a batch that is sent again is known.
    const INPUT: Input = Input::Stamped;

    /// What rows are found by.
    type Key: Key;
    /// What is known of one key.
    type Row: Row;
    /// One record, borrowed from its message.
    type Record<'a>: Send;
    /// What goes out, once a subject. [`Never`] if nothing does.
    type Output: Output;
    /// Why a record is not folded.
    type Reason: Copy + Into<&'static str>;
    /// What the application counts.
    type Tally: Tally;

    /// The records of a message, in order. Ends after an error: then the whole message says nothing.
    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<Self::Record<'a>, Undecodable>>;

    /// The key of a record.
    fn key<'r>(&self, record: &'r Self::Record<'_>) -> &'r <Self::Key as Key>::Ref;

    /// What a record does to the row of its key. A refusal may change the row too.
    fn fold(
        &self,
        slot: Slot<'_, Self::Row>,
        record: &Self::Record<'_>,
        cx: &mut Cx<'_, Self>,
    ) -> Result<(), Self::Reason>;

    /// On what every process must agree, beside the format and the number of partitions: names and values. They are written to
    /// the metadata of the logs when those are made.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The same application, with the facts of the logs, whatever this process was told: the error is the name of one that can't
    /// be read.
    fn agreed(self, _facts: &Facts) -> Result<Self, &'static str> {
        Ok(self)
    }

    /// The most bytes of one record. Every server must take messages that are larger by
    /// [some](crate::nats::topology::PAYLOAD_HEADROOM).
    fn largest_record(&self) -> usize {
        256 << 10
    }

    /// How far one message moves the log's clock at the most, whatever its timestamp says. If batches are stamped: an eighth of the
    /// [time that producers are remembered](Application::producer_expiry), so that neither a server's clock that steps nor a week without a
    /// message makes all of them expire.
    fn longest_step(&self) -> LogTime {
        match Self::INPUT {
            Input::Stamped => self.producer_expiry() / 8,
            Input::Own => LogTime::MAX,
        }
    }

    /// How long, in log time, a producer is remembered after the last of its batches that was folded, if batches are stamped. So
    /// long a producer may be silent, and a batch may be sent again. 7 days.
    fn producer_expiry(&self) -> LogTime {
        7 * 24 * 60 * 60 * 1_000_000_000
    }

    /// Whether the row counts as absent at `now`, be it still stored or not.
    fn is_expired(&self, _row: &Self::Row, _now: LogTime) -> bool {
        false
    }

    /// Whether nothing tells an expired row any more from one that never was: then it may be collected. What was expired must be
    /// forgotten later, or never.
    fn is_forgotten(&self, row: &Self::Row, now: LogTime) -> bool {
        self.is_expired(row, now)
    }

    /// What the row has put out, and when, for as long as it remembers: it is put out again if the stream of outputs has
    /// forgotten it.
    fn was_put_out(&self, _key: &Self::Key, _row: &Self::Row) -> Option<(Self::Output, LogTime)> {
        None
    }

    /// Whether the row counts as under way.
    fn is_live(&self, _row: &Self::Row) -> bool {
        true
    }

    /// What is lost, in words, if this refusal proves that something is.
    fn loss(&self, _reason: Self::Reason, _record: &Self::Record<'_>) -> Option<String> {
        None
    }
}

/// On what the processes of a system agree, by name.
pub type Facts = BTreeMap<String, String>;

/// How a batch that is sent again is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Each batch carries its producer's [stamp](crate::Stamp), and is folded or refused by it.
    Stamped,
    /// Records number themselves: the application knows what comes again.
    Own,
}

/// What is put out: one message of the outputs' stream, which takes one message a subject.
pub trait Output: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Appends what follows the subject of all outputs. It is the output's identity: whatever is put out under it again must be
    /// the same.
    fn subject(&self, subject: &mut String);

    /// Appends the payload.
    fn encode(&self, payload: &mut Vec<u8>);

    /// Whether the message found at its subject says the same.
    fn agrees(&self, found: &[u8]) -> bool {
        let mut payload = Vec::new();
        self.encode(&mut payload);
        payload == found
    }

    /// What it says, in words: the subject of a sentence, as in `account 7 has 12 left`.
    fn claim(&self) -> String {
        format!("{self:?}")
    }

    /// What a message found at its subject says, in words.
    fn found(found: &[u8]) -> String {
        format!("{:?}", String::from_utf8_lossy(found))
    }
}

/// There is none: for an application that puts nothing out, or refuses nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

impl Output for Never {
    fn subject(&self, _: &mut String) {
        match *self {}
    }

    fn encode(&self, _: &mut Vec<u8>) {
        match *self {}
    }
}

impl From<Never> for &'static str {
    fn from(never: Never) -> Self {
        match never {}
    }
}

/// Where and why a payload is not what its subject promises.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("value {index} is {what}")]
pub struct Undecodable {
    /// The value that failed, counted from 0.
    pub index: usize,
    pub what: &'static str,
}

/// What is known of one key, and how it looks in bytes. What is kept of it is verified: whatever is decoded was encoded once, as
/// the row of the same key.
pub trait Row: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// Appends the row in bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// The row that these bytes are; `None` if they have a shape that only another version knows.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Eight bytes, little-endian.
impl Row for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// The row of a record's key. An expired row is no row.
pub struct Slot<'a, R> {
    row: &'a mut Option<R>,
    /// Whether the row counts.
    is_there: bool,
    changed: &'a mut bool,
}

impl<'a, R> Slot<'a, R> {
    pub(crate) fn new(row: &'a mut Option<R>, is_there: bool, changed: &'a mut bool) -> Self {
        Self { row, is_there, changed }
    }

    /// The row, if there is one.
    #[inline]
    pub fn get(&self) -> Option<&R> {
        if self.is_there { self.row.as_ref() } else { None }
    }

    /// The row, to be changed in place: it is written with the next commit.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut R> {
        if !self.is_there {
            return None;
        }
        *self.changed = true;
        self.row.as_mut()
    }

    /// Puts a row in the place of what is there, if anything is.
    #[inline]
    pub fn set(self, row: R) {
        *self.changed = true;
        *self.row = Some(row);
    }

    /// The row that counts as absent because it has expired, be it forgotten or not.
    pub fn expired(&self) -> Option<&R> {
        if self.is_there { None } else { self.row.as_ref() }
    }
}

/// What a record is folded in.
pub struct Cx<'a, A: Application> {
    /// The log's clock. Never steps back.
    pub now: LogTime,
    pub position: Position,
    pub tally: &'a mut A::Tally,
    outputs: &'a mut Vec<A::Output>,
    /// The partition, and when its log was created that the store began with.
    log: (u32, UnixNanos),
}

impl<'a, A: Application> Cx<'a, A> {
    pub(crate) fn new(
        now: LogTime,
        position: Position,
        tally: &'a mut A::Tally,
        outputs: &'a mut Vec<A::Output>,
        log: (u32, UnixNanos),
    ) -> Self {
        Self { now, position, tally, outputs, log }
    }

    /// The place of the next output: a name that no other output of the system has, and that every replay gives it again. For
    /// outputs that are not once a key.
    pub fn place(&self) -> Place {
        let (partition, log_born) = self.log;
        Place { partition, log_born, position: self.position, nth: self.outputs.len() as u64 }
    }

    /// Has something published, before the row is committed.
    #[inline]
    pub fn put_out(&mut self, output: A::Output) {
        self.outputs.push(output);
    }
}

/// Where something was put out. As part of a subject: `<partition>.<log born>.<position>.<nth>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub partition: u32,
    /// When the log was created that the store began with.
    pub log_born: UnixNanos,
    pub position: Position,
    /// Which output of its batch it is, counted from 0.
    pub nth: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, log_born, position, nth } = self;
        write!(f, "{partition}.{log_born}.{position}.{nth}")
    }
}

/// Counts that can be added up.
pub trait Tally: Clone + Copy + fmt::Debug + Default + PartialEq + Send + Sync + 'static {
    fn add(&mut self, other: &Self);

    /// What is counted, each by a name of `a-z_`, for metrics. Nothing, if it is not said.
    fn counts(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

impl Tally for () {
    fn add(&mut self, (): &Self) {}
}
