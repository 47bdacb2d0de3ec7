//! The connections of one worker. A server may give fewer than serve a worker best: then they are shared.

use crate::application::Application;
use crate::log::source::sources_per_connection;
use crate::nats::connect::{self, ConnectError, Connection};

/// Those that are not for pulling.
const OTHERS: usize = 2;

/// What each connection is for. The same one may be here more than once.
pub struct Connections {
    /// For outputs and rejects, and for all that is asked.
    pub publishing: Connection,
    /// Snapshots are large, and are not to hold up what is published or pulled.
    pub snapshots: Connection,
    /// One at least.
    pub pulling: Vec<Connection>,
}

impl Connections {
    /// Opens what `partitions` are served best by beside `first`, or `most`, or what the server gives.
    pub async fn open<A: Application>(
        first: Connection,
        nats: &connect::Config,
        partitions: usize,
        most: Option<usize>,
    ) -> Result<Self, ConnectError> {
        let best = best(first.client.server_info().max_payload, partitions);
        let wanted = most.map_or(best, |most| most.min(best));
        let mut pulling = Vec::new();
        let mut snapshots = None;
        for n in 1..wanted {
            // Pulling alone comes first, snapshots then.
            let name = format!("{} {} {}", A::NAME, A::WORDS.worker, if n == 2 { "snapshots" } else { "pull" });
            match connect::connect_another(nats, &name).await {
                Ok(connection) if n == 2 => snapshots = Some(connection),
                Ok(connection) => pulling.push(connection),
                Err(ConnectError::NoMore { cause, .. }) => {
                    tracing::warn!(
                        cause,
                        "the NATS server gives this worker {n} of {wanted} connections: its partitions share them"
                    );
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if pulling.is_empty() {
            pulling.push(first.clone());
        }
        Ok(Self { snapshots: snapshots.unwrap_or_else(|| first.clone()), publishing: first, pulling })
    }

    /// The connection that the `n`th of `partitions` is pulled on, and how many share it.
    pub fn pulling(&self, n: usize, partitions: usize) -> (&Connection, usize) {
        let a_connection = partitions.div_ceil(self.pulling.len());
        let first = n - n % a_connection;
        (&self.pulling[n / a_connection], a_connection.min(partitions - first))
    }
}

/// How many connections serve so many partitions best.
fn best(max_payload: usize, partitions: usize) -> usize {
    OTHERS + partitions.div_ceil(sources_per_connection(max_payload, partitions))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_of_few_partitions_has_one_to_pull_on_for_each_and_many_share() {
        let connections = |partitions| best(1 << 20, partitions);
        assert_eq!([1, 2, 8, 9, 16, 64].map(connections), [3, 4, 10, 7, 10, 10]);
        // No connection carries more than its budget allows.
        assert_eq!(connections(1024), OTHERS + 1024_usize.div_ceil(20));
    }
}
