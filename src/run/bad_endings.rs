//! Streams that have ended badly, as they are told of.

use crate::run::ledger::Ending;
use crate::sum::stream_id::StreamId;
use jetfold::Throttle;

/// Streams that ended badly and are named one by one; of others, now and then, how many there are.
const MOST_NAMED: u32 = 20;

/// Says which streams have ended otherwise than verified: each of the first, and of others how many.
#[derive(Default)]
pub(super) struct BadEndings {
    named: u32,
    others: Throttle,
}

impl BadEndings {
    pub(super) fn note(&mut self, id: StreamId, ending: Ending) {
        let what = match ending {
            Ending::Verified => return,
            Ending::Late => "late: the right final, but stored after the deadline",
            Ending::Missing => "missing: no final within twice the deadline",
            Ending::Mismatched => "mismatched: the final is not what was sent",
            Ending::Duplicate => "duplicate: sums holds two finals of one stream",
        };
        if self.named < MOST_NAMED {
            self.named += 1;
            tracing::error!(stream = %id, "{what}");
        } else if let Some(streams) = self.others.count() {
            tracing::error!(streams, stream = %id, "{what}. It is one of so many that ended badly and are not named");
        }
    }
}
