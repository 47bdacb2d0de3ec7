//! Headers of stamped batches, from the bytes that a stream holds to what becomes of the batch.
//!
//! Each message is a length in one byte and so many bytes of headers; its records are the first eight of them.

#![no_main]

#[path = "../../tests/hostile/producers.rs"]
#[allow(dead_code)]
mod producers;

use jetfold::testing::outside::stamp_of_headers;
use jetfold::{Batch, Checkpoint, STAMP, Share, Table};
use libfuzzer_sys::fuzz_target;
use producers::{Letters, judge, stamp};
use std::collections::HashMap;
use std::sync::Arc;

fuzz_target!(|input: &[u8]| {
    let share = Share { partition: 0, partitions: 1 };
    let mut table = Table::new(Arc::new(Letters), share, u64::MAX, Checkpoint::start_of(1));
    let (mut known, mut rest) = (HashMap::new(), input);
    while let Some((len, behind)) = rest.split_first() {
        let (headers, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let found = stamp_of_headers(headers);
        let expected = header(headers).as_deref().and_then(stamp);
        let parts = found.as_ref().map(|stamp| (stamp.producer.clone(), [stamp.life, stamp.number, stamp.offset]));
        assert_eq!(parts, expected);

        let payload = headers[..headers.len().min(8)].to_vec();
        let is_text = payload.iter().all(|byte| *byte < 128);
        let records = if is_text { payload.len() } else { 0 };
        let batch = Batch { position: table.position() + 1, time: 1, payload: payload.into(), stamp: found };
        let staged = table.stage(&batch.payload);
        let folded = table.fold(&batch, staged);
        let reason = match judge(&mut known, expected.as_ref()) {
            "again" => None,
            "folded" => (!is_text).then_some("undecodable"),
            reason => Some(reason),
        };
        assert_eq!(folded.rejected.as_ref().map(|rejected| rejected.rejections.reasons()).as_deref(), reason);
        let rejected = if reason.is_some() { records.max(1) as u64 } else { 0 };
        assert_eq!(folded.tally.rejected, rejected);
    }
});

/// The value of the header by the words of the documentation: the first line with its name, and those behind that begin with a space.
fn header(headers: &[u8]) -> Option<String> {
    let mut value: Option<String> = None;
    for line in headers.split(|byte| *byte == b'\n') {
        // What is no text says nothing.
        let Ok(line) = str::from_utf8(line) else { continue };
        let line = line.strip_suffix('\r').unwrap_or(line);
        match &mut value {
            None => {
                let found = line.split_once(':').filter(|(name, _)| *name == STAMP);
                value = found.map(|(_, value)| value.trim_start().to_owned());
            }
            Some(value) if line.starts_with(char::is_whitespace) => value.push_str(line),
            Some(_) => break,
        }
    }
    value.map(|value| value.trim_end().to_owned())
}
