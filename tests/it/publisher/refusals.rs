//! Records that can't be published: one clear sentence each, and the publisher goes on.

use super::{keys, log, record, system, the_logs_have};
use crate::support::Server;
use jetfold::PublishError;

/// What a message may hold here, as the configuration of the server and the rules of rejects have it.
const MOST: usize = (1 << 20) - (64 << 10);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_in_a_sentence_and_the_publisher_goes_on_without_it() {
    let server = Server::with_config("max_payload: 1MB");
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut publisher = system.publisher_named("shop").await.unwrap();
    // All of one key, and so of one partition.
    let mut push = async |offset: u64, bytes: usize| -> Result<(), PublishError> {
        let key = keys(3).remove(0);
        publisher.push_at(offset, &key, |out| out.extend(record(&key, offset, bytes))).await
    };
    let said = |refused: Result<(), PublishError>| refused.unwrap_err().to_string();
    assert_eq!(
        said(push(0, 10).await),
        "offset 0 is no further than 0, which is flushed: give the next record a further one, from 1 on"
    );
    push(3, 10).await.unwrap();
    assert_eq!(said(push(2, 10).await), "offset 2 comes after 3: offsets never go back");
    // The first record of an offset, then one behind another.
    for offset in [6, 9] {
        assert_eq!(
            said(push(offset, MOST).await),
            format!("a record of {} bytes is more than the {MOST} that one message may hold: split it", MOST + 1)
        );
        push(offset, MOST / 2).await.unwrap();
    }
    // Records of one offset, behind others and then alone.
    for offset in [12, 15] {
        push(offset, MOST / 2).await.unwrap();
        for _ in 0..2 {
            assert_eq!(
                said(push(offset, MOST / 2 + 10).await),
                format!(
                    "the records of offset {offset} have {} bytes, which is more than the {MOST} that one message may hold, and \
                     must not be parted: give them offsets of their own",
                    MOST / 2 * 2 + 12
                )
            );
        }
    }
    push(18, 10).await.unwrap();
    publisher.flush().await.unwrap();
    let key = keys(3).remove(0);
    let refused = publisher.push_at(18, &key, |out| out.extend(record(&key, 18, 10))).await;
    assert_eq!(
        said(refused),
        "offset 18 is no further than 18, which is flushed: give the next record a further one, from 1 on"
    );
    publisher.finish().await.unwrap();
    assert_eq!(keys(18).len(), 1, "as of all multiples of 3");
    let found = super::batches(&server).await;
    let mut numbers = Vec::new();
    for (stamp, payload) in found.iter().flatten() {
        let lines = payload.split_inclusive(|byte| *byte == b'\n');
        numbers.extend(lines.map(|line| super::parsed(line).unwrap().1));
        let last = numbers.last().copied().filter(|_| !payload.is_empty()).unwrap_or(0);
        assert_eq!(stamp.offset, last, "an offset is that of the last record");
    }
    assert_eq!(numbers, [3, 6, 9, 18]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_leaves_room_for_its_headers_in_logs_that_take_small_messages_only() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let jetstream = server.jetstream().await;
    for partition in 0..super::PARTITIONS {
        let mut config = jetstream.get_stream(log(partition)).await.unwrap().cached_info().config.clone();
        config.max_message_size = 66 << 10;
        jetstream.update_stream(config).await.unwrap();
    }
    // The longest name there is makes the longest headers.
    let mut publisher = system.publisher_named(&"x".repeat(64)).await.unwrap();
    const FITS: usize = 65 << 10;
    for number in 1..=5 {
        let key = keys(3 * number).remove(0);
        let refused = publisher.push_at(3 * number, &key, |out| out.extend(record(&key, 3 * number, FITS))).await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            format!("a record of {} bytes is more than the {FITS} that one message may hold: split it", FITS + 1)
        );
        super::push(&mut publisher, 3 * number, FITS - 1).await.unwrap();
    }
    publisher.finish().await.unwrap();
    the_logs_have(&server, (1..=5).map(|number| 3 * number)).await;
}
