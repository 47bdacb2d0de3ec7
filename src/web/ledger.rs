//! What a chunker measures: its ledger.

use crate::run::report::Report;
use jetfold::metrics::{Kind, Metric};
use metrics::{Unit, counter, gauge};

const STREAMS: &str = "stream_sum_streams_total";
const ENDED: &str = "stream_sum_streams_ended_total";
const UNFINISHED: &str = "stream_sum_streams_unfinished";
const CHUNKS: &str = "stream_sum_chunks_total";
const BYTES: &str = "stream_sum_bytes_total";
const LATENCY: &str = "stream_sum_final_latency_seconds";
const WAITING: &str = "stream_sum_partitions_waiting";
const AWAY: &str = "stream_sum_away_seconds_total";

/// All that a chunker measures.
pub const ALL: &[Metric] = &[
    of(STREAMS, Kind::Counter, Unit::Count, &[], "Streams opened"),
    of(
        ENDED,
        Kind::Counter,
        Unit::Count,
        &["fate"],
        "Streams that have ended, by fate: verified, missing, mismatched, duplicate, late; and finals of streams that nobody has opened, unexpected",
    ),
    of(UNFINISHED, Kind::Gauge, Unit::Count, &[], "Streams that have begun and not ended"),
    of(CHUNKS, Kind::Counter, Unit::Count, &[], "Chunks handed over to be sent, closing ones included"),
    of(BYTES, Kind::Counter, Unit::Bytes, &[], "Bytes of data in them"),
    of(
        LATENCY,
        Kind::Gauge,
        Unit::Seconds,
        &["quantile"],
        "From the scheduled send of a closing chunk to the arrival of its final, of the last few seconds",
    ),
    of(WAITING, Kind::Gauge, Unit::Count, &[], "Partitions whose logs take nothing"),
    of(
        AWAY,
        Kind::Counter,
        Unit::Seconds,
        &[],
        "How long the run itself was away, cut off or paused: no deadline runs meanwhile",
    ),
];

const fn of(name: &'static str, kind: Kind, unit: Unit, labels: &'static [&'static str], what: &'static str) -> Metric {
    Metric { name, kind, unit, labels, what }
}

/// Tells the recorder of the process how a run stands.
pub fn measure(report: &Report) {
    let counts = &report.counts;
    counter!(STREAMS).absolute(counts.streams);
    counter!(CHUNKS).absolute(counts.chunks);
    counter!(BYTES).absolute(counts.bytes);
    counter!(AWAY).absolute(report.away_s as u64);
    for (fate, ended) in [
        ("verified", counts.verified),
        ("missing", counts.missing),
        ("mismatched", counts.mismatched),
        ("duplicate", counts.duplicate),
        ("unexpected", counts.unexpected),
        ("late", counts.late),
    ] {
        counter!(ENDED, "fate" => fate).absolute(ended);
    }
    let ended = counts.verified + counts.missing + counts.mismatched + counts.duplicate + counts.late;
    gauge!(UNFINISHED).set(counts.streams.saturating_sub(ended) as f64);
    gauge!(WAITING).set(report.waiting.len() as f64);
    let latency = &report.interval.latency_ms;
    for (quantile, ms) in [("0.5", latency.p50), ("0.9", latency.p90), ("0.99", latency.p99), ("0.999", latency.p999)] {
        gauge!(LATENCY, "quantile" => quantile).set(ms / 1e3);
    }
}
