//! What the bucket says of a snapshot without its being read: its name, and the metadata that was put with it.

use crate::checkpoint::{Checkpoint, Position};
use crate::identity::accept::Accepted;
use crate::nats::names::Names;
use crate::store::snapshot::FORMAT;
use crate::time::UnixNanos;
use async_nats::jetstream::object_store::ObjectInfo;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// The keys of an object's metadata: the format of the snapshot, and, as JSON, the checkpoint and what was accepted before.
const FORMAT_KEY: &str = "format";
const CHECKPOINT_KEY: &str = "checkpoint";
const ACCEPTED_KEY: &str = "accepted";

/// `<partition>/<position>/<random>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    pub partition: u32,
    pub position: Position,
    random: String,
}

impl Name {
    pub fn new(partition: u32, position: Position) -> Self {
        Self { partition, position, random: hex::encode(rand::random::<[u8; 8]>()) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.partition, self.position, self.random)
    }
}

impl FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.splitn(3, '/');
        let mut part = || parts.next().ok_or(());
        let partition = part()?.parse().map_err(|_| ())?;
        let position = part()?.parse().map_err(|_| ())?;
        Ok(Self { partition, position, random: part()?.to_owned() })
    }
}

/// A snapshot that the leader knows.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: Name,
    /// Where the store stood.
    pub checkpoint: Checkpoint,
    /// What of its log was accepted as lost before.
    pub accepted: Vec<Accepted>,
    /// Compressed.
    pub bytes: u64,
    /// When the leader stored what names it, which is written last.
    pub put_at: UnixNanos,
    pub(super) nuid: String,
    pub(super) pieces: usize,
}

/// A snapshot that this version can't read, because another one wrote it.
#[derive(Clone, Debug)]
pub struct Unreadable {
    pub name: Name,
    /// Its format, if it says one.
    pub format: Option<String>,
    pub put_at: UnixNanos,
    pub(super) nuid: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.format {
            Some(format) if *format == FORMAT.to_string() => {
                f.write_str("its metadata is not what this version writes")
            }
            Some(format) => write!(f, "it has format {format}, and this version reads format {FORMAT}"),
            None => write!(f, "it does not say its format, and this version reads format {FORMAT}"),
        }
    }
}

/// The metadata to put with a snapshot.
pub(super) fn metadata(names: &Names, checkpoint: &Checkpoint, accepted: &[Accepted]) -> HashMap<String, String> {
    let checkpoint = serde_json::to_string(checkpoint).expect("a checkpoint has a JSON form");
    let accepted = serde_json::to_string(accepted).expect("what was accepted has a JSON form");
    let pairs = [(FORMAT_KEY, FORMAT.to_string()), (CHECKPOINT_KEY, checkpoint), (ACCEPTED_KEY, accepted)];
    pairs.map(|(key, value)| (names.key(key), value)).into()
}

/// What an object under a snapshot's name is. The inner error: a snapshot, but not one to be read here.
pub(super) fn told(names: &Names, name: Name, info: ObjectInfo, put_at: UnixNanos) -> Result<Listed, Unreadable> {
    let ObjectInfo { metadata, size, chunks: pieces, nuid, .. } = info;
    let format = metadata.get(&names.key(FORMAT_KEY));
    let told = |key: &str| metadata.get(&names.key(key)).map_or("", String::as_str);
    let checkpoint = serde_json::from_str(told(CHECKPOINT_KEY));
    let accepted = serde_json::from_str(told(ACCEPTED_KEY));
    match (checkpoint, accepted) {
        (Ok(checkpoint), Ok(accepted)) if format == Some(&FORMAT.to_string()) => {
            Ok(Listed { name, checkpoint, accepted, bytes: size as u64, put_at, nuid, pieces })
        }
        _ => Err(Unreadable { name, format: format.cloned(), put_at, nuid }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Letters;

    #[test]
    fn names_tell_partition_and_position() {
        let name = Name::new(3, 17);
        assert_eq!(name.to_string().parse(), Ok(name.clone()));
        assert_ne!(name, Name::new(3, 17));
        for other in ["", "3", "3/17", "x/17/ab", "3/-1/ab"] {
            assert!(other.parse::<Name>().is_err(), "{other}");
        }
    }

    #[test]
    fn what_another_version_has_written_is_told_apart() {
        let (names, name) = (Names::of::<Letters>(""), Name::new(3, 17));
        let checkpoint = Checkpoint { position: 17, ..Checkpoint::start_of(1) };
        let tell = |metadata: HashMap<String, String>| {
            let info =
                serde_json::json!({ "name": name.to_string(), "bucket": "b", "nuid": "n", "metadata": metadata });
            told(&names, name.clone(), serde_json::from_value(info).unwrap(), 5)
        };
        let ours = tell(metadata(&names, &checkpoint, &[])).unwrap();
        assert_eq!((ours.name.clone(), ours.checkpoint, ours.put_at), (name.clone(), checkpoint, 5));
        for (key, value, format) in [
            (FORMAT_KEY, Some("999"), Some("999")),
            (FORMAT_KEY, None, None),
            (CHECKPOINT_KEY, Some("{}"), Some(FORMAT.to_string().as_str())),
            (ACCEPTED_KEY, None, Some(FORMAT.to_string().as_str())),
        ] {
            let mut metadata = metadata(&names, &checkpoint, &[]);
            metadata.remove(&names.key(key));
            metadata.extend(value.map(|value| (names.key(key), value.to_owned())));
            let unreadable = tell(metadata).unwrap_err();
            assert_eq!(unreadable.format.as_deref(), format, "{key} {value:?}");
        }
    }
}
