//! The plan of applying a topology: what becomes of one stream, and what goes with it. Only what is named changes.

use crate::nats::names::Names;
use crate::nats::topology::{FORMAT, Named};
use crate::time::UnixNanos;
use crate::values::{Size, Span};
use async_nats::jetstream::stream::{Config, State};

/// What one kept message and the next take in a log besides the two of them.
const KEPT_HEADROOM: i64 = 4 << 10;

/// The largest message of a log with this bound: the one at the checkpoint stays, and the next must have room beside it.
/// `None` if the log has no bound.
pub fn largest_message(max_bytes: i64) -> Option<usize> {
    (max_bytes > 0).then(|| usize::try_from((max_bytes / 2 - KEPT_HEADROOM).max(1)).unwrap_or(usize::MAX))
}

/// What is to become of a stream that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub config: Config,
    /// What changes, from what to what; empty: nothing.
    pub what: Vec<String>,
    /// What is lost by it.
    pub losses: Vec<String>,
}

/// `wanted` as this configuration has it, of which only what is `named` counts. `now` in the same time as the stream's.
pub fn change(
    names: &Names,
    found: &Config,
    state: &State,
    wanted: &Config,
    named: &Named,
    max_payload: usize,
    now: UnixNanos,
) -> Change {
    let mut config = found.clone();
    let (mut what, mut losses) = (Vec::new(), Vec::new());
    let mut note = |name: &str, from: String, to: String| {
        if from != to {
            what.push(format!("{name} {from} -> {to}"));
        }
    };
    for (key, value) in &wanted.metadata {
        let shown = found.metadata.get(key).cloned();
        // What the fold reads was compared before: what differs here is an older format, or missing.
        if shown.as_ref() != Some(value) && (*key == names.key(FORMAT) || shown.is_none()) {
            let name = key.strip_prefix(&names.key("")).unwrap_or(key);
            note(name, shown.unwrap_or_else(|| "missing".to_owned()), value.clone());
            config.metadata.insert(key.clone(), value.clone());
        }
    }
    if named.replicas {
        note("replicas", found.num_replicas.to_string(), wanted.num_replicas.to_string());
        config.num_replicas = wanted.num_replicas;
        if wanted.num_replicas < found.num_replicas {
            losses.push(format!("{} of {} copies", found.num_replicas - wanted.num_replicas, found.num_replicas));
        }
    }
    if named.max_bytes {
        note("max_bytes", limit(found.max_bytes), limit(wanted.max_bytes));
        config.max_bytes = wanted.max_bytes;
        if u64::try_from(wanted.max_bytes).is_ok_and(|most| most < state.bytes) {
            losses.push(format!("room: it holds {} already, and takes nothing until that is less", said(state.bytes)));
        }
    }
    if named.max_age {
        note("max_age", Span(found.max_age).to_string(), Span(wanted.max_age).to_string());
        config.max_age = wanted.max_age;
        // A server refuses one that is longer, and nothing here depends on it.
        if !wanted.max_age.is_zero() {
            config.duplicate_window = config.duplicate_window.min(wanted.max_age);
        }
        let oldest = UnixNanos::try_from(state.first_timestamp.unix_timestamp_nanos()).unwrap_or(UnixNanos::MAX);
        let age = u128::try_from(now.saturating_sub(oldest)).unwrap_or(0);
        let lower = !wanted.max_age.is_zero() && (found.max_age.is_zero() || wanted.max_age < found.max_age);
        if lower && state.messages > 0 && age > wanted.max_age.as_nanos() {
            losses.push(format!("what is older than {}: it holds {} messages", Span(wanted.max_age), state.messages));
        }
    }
    // A log alone has facts of the fold, and a message that is kept.
    if named.is_log {
        let size = |config: &Config| usize::try_from(config.max_message_size).ok().filter(|size| *size > 0);
        // One that this program has set follows the bound; somebody else's stays.
        let theirs = size(found).filter(|size| Some(*size) != largest_message(found.max_bytes));
        let to =
            [largest_message(config.max_bytes).filter(|most| *most < max_payload), theirs].into_iter().flatten().min();
        let shown = |size: Option<usize>| size.map_or("none".to_owned(), |size| said(size as u64));
        note("max_msg_size", shown(size(found)), shown(to));
        config.max_message_size = to.map_or(-1, |size| i32::try_from(size).unwrap_or(i32::MAX));
    }
    Change { config, what, losses }
}

fn said(bytes: u64) -> String {
    bytesize::ByteSize(bytes).to_string().replace(' ', "")
}

fn limit(bytes: i64) -> String {
    u64::try_from(bytes).map_or_else(|_| "unlimited".to_owned(), |bytes| Size(bytes).to_string())
}

/// The metadata that a stream should carry and does not.
pub fn missing(found: &Config, wanted: &Config) -> Vec<String> {
    let mut missing: Vec<_> =
        wanted.metadata.keys().filter(|key| !found.metadata.contains_key(*key)).cloned().collect();
    missing.sort();
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Letters;
    use std::collections::HashMap;
    use std::time::Duration;

    const PAYLOAD: usize = 1 << 20;
    const HOUR: UnixNanos = 3_600_000_000_000;

    fn names() -> Names {
        Names::of::<Letters>("")
    }

    fn state(messages: u64, bytes: u64) -> State {
        let times = r#""first_ts":"1970-01-01T00:00:00Z","last_ts":"1970-01-01T00:00:00Z""#;
        let counts = format!(r#""messages":{messages},"bytes":{bytes},"first_seq":1,"last_seq":9,"consumer_count":0"#);
        serde_json::from_str(&format!("{{{counts},{times}}}")).unwrap()
    }

    fn stream(replicas: usize, max_bytes: i64, hours: u64) -> Config {
        Config { num_replicas: replicas, max_bytes, max_age: Duration::from_secs(3600 * hours), ..Config::default() }
    }

    #[test]
    fn only_what_is_named_changes() {
        let (found, wanted) = (stream(3, 1 << 32, 48), stream(1, 1 << 30, 24));
        let held = state(5, 1 << 31);
        let nothing = change(&names(), &found, &held, &wanted, &Named::default(), PAYLOAD, 99 * HOUR);
        assert_eq!((nothing.config, nothing.what, nothing.losses), (found.clone(), vec![], vec![]));
        for (named, what, losses) in [
            (Named { replicas: true, ..Named::default() }, "replicas 3 -> 1", 1),
            (Named { max_bytes: true, ..Named::default() }, "max_bytes 4GiB -> 1GiB", 1),
            (Named { max_age: true, ..Named::default() }, "max_age 2days -> 1day", 1),
        ] {
            let change = change(&names(), &found, &held, &wanted, &named, PAYLOAD, 30 * HOUR);
            assert_eq!((change.what, change.losses.len()), (vec![what.to_owned()], losses));
        }
    }

    #[test]
    fn what_nothing_is_lost_by_needs_no_force() {
        let all = Named { replicas: true, max_bytes: true, max_age: true, is_log: false };
        let found = stream(1, 1 << 32, 48);
        for (wanted, held, now) in [
            (stream(3, 1 << 33, 72), state(5, 1 << 31), 99 * HOUR),
            (stream(1, 1 << 30, 24), state(5, 1 << 29), 20 * HOUR),
            (stream(1, 1 << 30, 24), state(0, 0), 99 * HOUR),
        ] {
            let change = change(&names(), &found, &held, &wanted, &all, PAYLOAD, now);
            assert_eq!(change.losses, Vec::<String>::new());
            assert!(!change.what.is_empty());
        }
    }

    #[test]
    fn a_message_of_a_log_leaves_room_for_the_one_that_is_kept() {
        let named = Named { is_log: true, max_bytes: true, ..Named::default() };
        let size = |found: &Config, wanted: i64, named: &Named| {
            change(&names(), found, &state(0, 0), &stream(1, wanted, 0), named, PAYLOAD, 0).config.max_message_size
        };
        let small = 1280 << 10;
        let half = (640 << 10) - 4096;
        assert_eq!(size(&stream(1, 1 << 30, 0), small, &named), half);
        // An older one is mended although nothing is named.
        assert_eq!(size(&stream(1, small, 0), 1 << 30, &Named { max_bytes: false, ..named }), half);
        // What follows the bound goes with it, and what somebody has set stays.
        let ours = Config { max_message_size: half, ..stream(1, small, 0) };
        assert_eq!(size(&ours, 1 << 30, &named), -1);
        let theirs = Config { max_message_size: 700 << 10, ..stream(1, 1 << 30, 0) };
        assert_eq!(size(&theirs, 1 << 31, &named), 700 << 10);
        assert_eq!(size(&theirs, small, &named), half);
        assert_eq!(size(&stream(1, 1 << 30, 0), small, &Named { is_log: false, ..named }), 0, "of a log alone");
    }

    #[test]
    fn what_a_tool_has_dropped_is_put_back() {
        let facts = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let wanted = Config {
            metadata: facts(&[("letters.format", "1"), ("letters.partitions", "2")]),
            ..stream(1, 1 << 30, 0)
        };
        let found = Config { metadata: facts(&[("_nats.ver", "2.15.1")]), ..stream(1, 1 << 30, 0) };
        assert_eq!(missing(&found, &wanted), ["letters.format", "letters.partitions"]);
        let change = change(&names(), &found, &state(1, 1), &wanted, &Named::default(), PAYLOAD, 0);
        let mut what = change.what;
        what.sort();
        assert_eq!(what, ["format missing -> 1", "partitions missing -> 2"]);
        assert_eq!(change.config.metadata.len(), 3, "servers add their own");
    }
}
