//! The section `topology` of the configuration: what the machine makes, and what the fold of chunks agrees on.

use crate::sum::row::Expiry;
use crate::sum::{self, Rules, Summer, nanos};
use jetfold::nats::admin::Admin;
use jetfold::nats::connect::Connection;
use jetfold::nats::topology;
use jetfold::values::{Size, Span, parsed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Put before every name and subject; empty: nothing.
    #[serde(deserialize_with = "parsed")]
    pub prefix: String,
    /// Partition logs, 1 to 4096.
    #[serde(deserialize_with = "parsed")]
    pub partitions: u32,
    /// Copies of everything: 1, 3 or 5.
    #[serde(deserialize_with = "parsed")]
    pub replicas: usize,
    /// The most bytes of one partition log, and of `rejects`.
    pub log_max_bytes: Size,
    /// The most bytes of `sums`.
    pub sums_max_bytes: Size,
    /// How long finals are kept.
    pub sums_retention: Span,
    /// How long rejects are kept.
    pub rejects_retention: Span,
    /// The most data of one chunk.
    pub max_chunk_bytes: Size,
    /// How long a live stream is remembered without a new chunk, in log time.
    pub idle_expiry: Span,
    /// How long a completed stream is remembered, in log time.
    pub completed_expiry: Span,
    /// The keys that somebody has set, as opposed to defaults, of those where it matters: only what is set can disagree
    /// with the logs.
    #[serde(skip)]
    pub stated: BTreeSet<String>,
}

impl Config {
    /// Those for which it matters whether somebody has set them, and what the machine calls them.
    pub const KEYS: [(&'static str, &'static str); 9] = [
        ("partitions", "partitions"),
        ("replicas", "replicas"),
        ("log_max_bytes", "log_max_bytes"),
        ("sums_max_bytes", "outputs_max_bytes"),
        ("sums_retention", "outputs_retention"),
        ("rejects_retention", "rejects_retention"),
        ("max_chunk_bytes", sum::MAX_CHUNK_BYTES),
        ("idle_expiry", sum::IDLE_EXPIRY),
        ("completed_expiry", sum::COMPLETED_EXPIRY),
    ];

    /// What the machine makes of it.
    pub fn machine(&self) -> topology::Config {
        let stated = Self::KEYS.into_iter().filter(|(key, _)| self.stated.contains(*key));
        topology::Config {
            prefix: self.prefix.clone(),
            partitions: self.partitions,
            replicas: self.replicas,
            log_max_bytes: self.log_max_bytes,
            outputs_max_bytes: self.sums_max_bytes,
            outputs_retention: self.sums_retention,
            rejects_retention: self.rejects_retention,
            stated: stated.map(|(_, machine)| machine.to_owned()).collect(),
        }
    }

    /// The summer, by the rules as they are set here.
    pub fn summer(&self) -> Summer {
        let expiry = Expiry { idle: nanos(self.idle_expiry), completed: nanos(self.completed_expiry) };
        Summer::new(Rules { max_chunk_bytes: self.max_chunk_bytes.bytes(), expiry })
    }

    /// The admin and the checker of this system.
    pub fn admin<'a>(&self, connection: &'a Connection, servers: String) -> Admin<'a, Summer> {
        Admin::new(connection, self.machine(), self.summer(), servers)
    }
}
