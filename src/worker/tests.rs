//! Names, lists of partitions, and ids of workers.

use super::*;

#[test]
fn partition_lists_are_read_and_written() {
    let set: PartitionSet = "0-3,6".parse().unwrap();
    assert_eq!(set, PartitionSet::Some(BTreeSet::from([0, 1, 2, 3, 6])));
    assert_eq!(set.to_string(), "0-3,6");
    assert_eq!("all".parse(), Ok(PartitionSet::All));
    for text in ["", "3-1", "a", "1,,2", "0-99999999"] {
        assert!(text.parse::<PartitionSet>().is_err(), "{text}");
    }
}

#[test]
fn a_partition_beyond_the_last_is_refused() {
    assert!(choose(&"0-7".parse().unwrap(), 8).is_ok());
    assert!(matches!(choose(&"8".parse().unwrap(), 8), Err(WorkerError::NoSuchPartition { partition: 8, .. })));
}

#[test]
fn an_id_of_a_worker_is_eight_hex_characters_and_all_else_is_damage() {
    assert_eq!(worker_id(b"0badcafe\n"), Some("0badcafe".to_owned()));
    for bytes in [&b""[..], b"0badcaf", b"0badcafe0", b"0badcafg", b"0BADCAFE", b"\xffbadcafe", b"0 adcafe"] {
        assert_eq!(worker_id(bytes), None, "{bytes:?}");
    }
}

#[test]
fn names_that_jetstream_would_not_take_are_refused() {
    assert!("worker_1-a".parse::<WorkerName>().is_ok());
    for text in ["a.b", "a b", "a*", "ä"] {
        assert!(text.parse::<WorkerName>().is_err(), "{text}");
    }
}
