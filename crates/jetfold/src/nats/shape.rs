//! What of a stream's configuration the guarantees rest on. It is never changed in place: who has changed it knows why, and
//! what it was for.

use async_nats::jetstream::stream::{Config, StorageType};
use std::fmt;

/// A field that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// As it is.
    pub found: String,
    /// As it must be.
    pub wanted: String,
}

impl Deviation {
    fn of(name: &str, found: impl fmt::Display, wanted: impl Into<String>) -> Option<Self> {
        Some(Self { found: format!("{name} {found}"), wanted: wanted.into() })
    }
}

/// Whether a stream takes one message a subject, and refuses a second.
pub fn once_a_subject(config: &Config) -> bool {
    config.max_messages_per_subject == 1 && config.discard_new_per_subject
}

/// What deviates first from the configuration that a stream was made with. `needed` are the bytes that one message of it
/// may have at least.
pub fn deviation(found: &Config, wanted: &Config, needed: usize) -> Option<Deviation> {
    let debug = |name: &str, found: &dyn fmt::Debug, wanted: &dyn fmt::Debug| {
        Deviation::of(name, format!("{found:?}"), format!("{wanted:?}"))
    };
    if found.subjects != wanted.subjects {
        return debug("subjects", &found.subjects, &wanted.subjects);
    }
    if found.retention != wanted.retention {
        return debug("retention", &found.retention, &wanted.retention);
    }
    if found.discard != wanted.discard {
        return debug("discard", &found.discard, &wanted.discard);
    }
    if once_a_subject(found) != once_a_subject(wanted) {
        let words = |once| if once { "one message a subject" } else { "many messages a subject" };
        let (found, wanted) = (words(once_a_subject(found)), words(once_a_subject(wanted)));
        return Some(Deviation { found: found.to_owned(), wanted: wanted.to_owned() });
    }
    if wanted.max_messages_per_subject <= 0 && found.max_messages_per_subject > 0 {
        return Deviation::of("max_msgs_per_subject", found.max_messages_per_subject, "none");
    }
    if found.max_messages > 0 {
        return Deviation::of("max_msgs", found.max_messages, "none: bytes and age bound it");
    }
    if wanted.max_age.is_zero() && !found.max_age.is_zero() {
        let age = humantime::format_duration(found.max_age);
        return Deviation::of("max_age", age, "none: what nobody has folded must not expire");
    }
    if usize::try_from(found.max_message_size).is_ok_and(|size| (1..needed).contains(&size)) {
        return Deviation::of("max_msg_size", found.max_message_size, format!("{needed} at least, or none"));
    }
    if found.storage == StorageType::Memory {
        return Deviation::of("storage", "memory", "file");
    }
    for (name, is) in [("no_ack", found.no_ack), ("sealed", found.sealed), ("deny_purge", found.deny_purge)] {
        if is {
            return Deviation::of(name, is, "none of it");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_the_guarantees_rest_on_is_named_and_everything_else_is_anybody_s() {
        let wanted = Config { subjects: vec!["chunks.0".into()], ..Config::default() };
        let found = || wanted.clone();
        let deviation = |found: Config| deviation(&found, &wanted, 1000).map(|deviation| deviation.found);
        for fine in [
            found(),
            Config { max_bytes: 5, num_replicas: 3, description: Some("mine".into()), ..found() },
            Config { max_message_size: 1000, ..found() },
            Config { max_message_size: -1, max_messages: -1, max_messages_per_subject: -1, ..found() },
        ] {
            assert_eq!(deviation(fine), None);
        }
        for (other, said) in [
            (Config { subjects: vec!["chunks.1".into()], ..found() }, "subjects [\"chunks.1\"]"),
            (Config { max_age: Duration::from_secs(60), ..found() }, "max_age 1m"),
            (Config { max_message_size: 999, ..found() }, "max_msg_size 999"),
            (Config { max_messages: 7, ..found() }, "max_msgs 7"),
            (Config { max_messages_per_subject: 7, ..found() }, "max_msgs_per_subject 7"),
            (Config { max_messages_per_subject: 1, discard_new_per_subject: true, ..found() }, "one message a subject"),
            (Config { storage: StorageType::Memory, ..found() }, "storage memory"),
            (Config { deny_purge: true, ..found() }, "deny_purge true"),
            (Config { no_ack: true, ..found() }, "no_ack true"),
        ] {
            assert_eq!(deviation(other).as_deref(), Some(said));
        }
    }
}
