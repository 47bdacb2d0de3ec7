//! What the fuzzers of `fuzz/` begin with: inputs by the real encoders, one file each. `HOSTILE_WRITE_SEEDS=1` writes them.

use crate::outside::{live, owner, rows};
use jetfold::store::{Store, snapshot};
use jetfold::testing::outside::entry;
use jetfold::{Checkpoint, FoldTally, Row as _, Stamp, Transaction, WorkerStanding};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use stream_sum::sum::Summer;
use stream_sum::sum::answer::{Answered, Found};
use stream_sum::sum::chunk::{Chunk, SeqNo};
use stream_sum::sum::codec::{encode_chunk, encode_final};
use stream_sum::sum::row::Row;
use stream_sum::sum::running::Sum;
use stream_sum::sum::stream_id::StreamId;

type Seeds = BTreeMap<String, Vec<u8>>;

fn id(n: u8) -> StreamId {
    StreamId::new([n; 16])
}

fn seq_no(n: u64) -> SeqNo {
    SeqNo::new(n).expect("a number from 1")
}

fn batch(chunks: &[(u8, u64, usize)]) -> Vec<u8> {
    let mut batch = Vec::new();
    for (n, number, len) in chunks {
        encode_chunk(&mut batch, &Chunk { id: id(*n), seq_no: seq_no(*number), data: &vec![*n; *len] });
    }
    batch
}

/// One after the other, each behind its length, of a system with so many partitions.
fn log(partitions: u8, batches: &[Vec<u8>]) -> Vec<u8> {
    let mut log = vec![partitions - 1];
    for batch in batches {
        log.extend(u16::try_from(batch.len()).expect("a short batch").to_le_bytes());
        log.extend(batch);
    }
    log
}

fn of_batch() -> Seeds {
    let edges = batch(&[(1, 128, 1), (1, 256, 1), (1, 65_536, 1), (1, 1 << 32, 1), (1, u64::MAX, 1)]);
    let cut = batch(&[(1, 1, 3)])[..20].to_vec();
    let two = [batch(&[(1, 1, 3), (2, 1, 5)]), batch(&[(2, 2, 7), (1, 2, 0), (2, 3, 0)])];
    let named: [(&str, Vec<u8>); 14] = [
        ("one-stream", log(1, &[batch(&[(1, 1, 3), (1, 2, 4), (1, 3, 0)])])),
        ("two-streams-in-turn", log(1, &two)),
        ("closed-at-once", log(1, &[batch(&[(1, 1, 0)])])),
        ("again", log(1, &[batch(&[(1, 1, 3), (1, 1, 3)]), batch(&[(1, 1, 3), (1, 2, 0), (1, 2, 0)])])),
        ("gap", log(1, &[batch(&[(1, 1, 3), (1, 3, 4)]), batch(&[(1, 2, 4), (1, 4, 0)])])),
        ("after-end", log(1, &[batch(&[(1, 1, 0), (1, 2, 3)])])),
        ("unknown", log(1, &[batch(&[(1, 2, 3), (2, 9, 0)])])),
        ("oversized", log(1, &[batch(&[(1, 1, 65), (1, 1, 64), (1, 2, 300)])])),
        ("misrouted", log(3, &[batch(&[(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1)])])),
        ("wide-numbers", log(1, &[edges])),
        ("cut-short", log(1, &[batch(&[(1, 1, 3)]), cut, batch(&[(1, 2, 0)])])),
        ("empty", log(1, &[Vec::new(), batch(&[(1, 1, 0)]), Vec::new()])),
        ("many", log(2, &[batch(&(0..60).map(|n| (n, 1, 2)).collect::<Vec<_>>())])),
        ("long", log(1, &[batch(&(1..60).map(|n| (1, n, 9)).collect::<Vec<_>>())])),
    ];
    named.map(|(name, seed)| (name.to_owned(), seed)).into()
}

fn of_kind(kind: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [&[kind], bytes.as_ref()].concat()
}

fn of_final_and_row() -> Seeds {
    let mut seeds = Seeds::new();
    let mut put = |name: &str, kind: u8, bytes: &[u8]| seeds.insert(name.to_owned(), of_kind(kind, bytes));
    let value = live(b"battery").value();
    for number in [3, u64::MAX] {
        put(&format!("final-{number}"), b'f', &encode_final(&Sum { id: id(1), seq_no: seq_no(number), value }));
    }
    for (name, row) in [
        ("live", Row::Live { sum: live(b"battery"), changed_at: 1 << 42 }),
        ("expired", Row::Live { sum: live(&[7; 64]), changed_at: 1 }),
        ("broken", Row::Broken { seq_no: seq_no(2), changed_at: 1 << 42 }),
        ("completed", Row::Completed { seq_no: seq_no(2), value, changed_at: 1 << 42 }),
    ] {
        let mut bytes = batch(&[(1, 2, 10), (1, 3, 0), (1, 9, 2)]);
        assert!(bytes.len() <= 80, "{}", bytes.len());
        bytes.extend(batch(&[(2, 1, 80)]));
        bytes.truncate(80);
        row.encode(&mut bytes);
        put(&format!("row-{name}"), b'r', &bytes);
    }
    let sum = value.to_string();
    for (name, stream) in [
        ("unknown", Found::Unknown),
        ("refused", Found::Refused),
        ("live", Found::Live { seq_no: 2, sum: sum.clone() }),
        ("completed", Found::Completed { seq_no: 2, sum }),
    ] {
        put(&format!("answer-{name}"), b'a', &serde_json::to_vec(&Answered { position: 7, stream }).unwrap());
    }
    put("standing", b's', &serde_json::to_vec(&WorkerStanding::default()).unwrap());
    put("snapshot", b'w', &inside_a_snapshot());
    let producer = [2u64, 7, 41, 1].map(u64::to_le_bytes).concat();
    put("producer", b'p', &of_kind(1, &producer));
    put("producer-contested", b'p', &of_kind(2, &producer));
    put("told", b't', b"12 shop-1 2 7 41");
    put("told-nothing", b't', b"12");
    let entries = [entry(1, [0, 1, 2], 1), entry(2, [1], 9), entry(3, [], 0)];
    let entries = entries.map(|entry| of_kind(u8::try_from(entry.len()).unwrap(), entry)).concat();
    put("group", b'g', &entries);
    seeds
}

/// The frame of a snapshot, unpacked.
fn inside_a_snapshot() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::<Summer>::open(folder.path(), &owner(), 1 << 20).unwrap();
    let checkpoint = Checkpoint { position: 7, ..Checkpoint::start_of(11) };
    let (number, collected, producers, tally) = (1, Vec::new(), Vec::new(), FoldTally::default());
    store.commit(&Transaction { number, rows: rows(), collected, producers, checkpoint, tally }).unwrap();
    let mut whole = Vec::new();
    snapshot::write(&store.view().unwrap(), &owner(), &mut whole).unwrap();
    let mut within = Vec::new();
    zstd::Decoder::new(&whole[b"stream-sum snapshot\n".len()..]).unwrap().read_to_end(&mut within).unwrap();
    within
}

fn of_stamped() -> Seeds {
    let header = |text: &str| of_kind(u8::try_from(text.len()).unwrap(), text);
    let stamped = |life, number, offset| {
        let stamp = Stamp { producer: "shop-1".to_owned(), life, number, offset };
        header(&format!("NATS/1.0\r\nJetfold-Stamp: {stamp}\r\n\r\n"))
    };
    let folded = header("NATS/1.0\r\nOther: b\r\nJetfold-Stamp:a 1\r\n 1\t\r\n 1 \r\n\r\n");
    let named: [(&str, Vec<u8>); 9] = [
        ("next", [stamped(1, 1, 3), stamped(1, 2, 7)].concat()),
        ("again", [stamped(1, 1, 3), stamped(1, 1, 3)].concat()),
        ("gap", [stamped(1, 1, 3), stamped(1, 3, 7)].concat()),
        ("fenced", [stamped(2, 1, 3), stamped(1, 2, 7)].concat()),
        ("contested", [stamped(1, 1, 3), stamped(2, 1, 4), stamped(2, 2, 9)].concat()),
        ("unknown", stamped(1, 2, 3)),
        ("last-number", [stamped(1, 1, u64::MAX), stamped(u64::MAX, u64::MAX, 0)].concat()),
        ("lines", folded),
        ("none", header("NATS/1.0\r\nOther: b\r\n\r\n")),
    ];
    named.map(|(name, seed)| (name.to_owned(), seed)).into()
}

#[test]
fn the_fuzzers_begin_with_what_the_encoders_write_today() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (target, seeds) in [("batch", of_batch()), ("final_and_row", of_final_and_row()), ("stamped", of_stamped())] {
        for (name, seed) in seeds {
            let file = folder.join(target).join(&name);
            if std::env::var_os("HOSTILE_WRITE_SEEDS").is_some() {
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(&file, &seed).unwrap();
            }
            let found = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert_eq!(hex::encode(found), hex::encode(seed), "{target}/{name}: HOSTILE_WRITE_SEEDS=1 writes it anew");
        }
    }
}
