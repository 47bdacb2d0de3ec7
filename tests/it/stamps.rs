//! Stamps as they come from a log, in both ways of reading it.

use crate::support::{PATIENCE, Server, apply, publish_raw};
use jetfold::Batch;
use jetfold::log::source::{Log, Source, pull_bytes};
use jetfold::nats::connect::{self, Connection};
use std::sync::Arc;
use stream_sum::cli::config::{Config, Sources};
use stream_sum::sum::names::names;
use tokio::time::timeout;

async fn connection(server: &Server) -> Connection {
    let environment = [("STREAM_SUM_NATS__SERVERS".into(), server.url().into())];
    let config = Config::load(Sources { environment: environment.into(), ..Sources::default() }).unwrap();
    let connection = connect::connect(&config.nats, "test").await.unwrap();
    // That it was made comes as an event of its own, and would end a source.
    let mut connects = connection.connects();
    timeout(PATIENCE, connects.wait_for(|connects| *connects > 0)).await.expect("a connection").unwrap();
    connection
}

async fn read(mut source: Source, batches: usize) -> Vec<Batch> {
    let mut read = Vec::new();
    for _ in 0..batches {
        read.push(timeout(PATIENCE, source.next()).await.expect("a batch comes").unwrap());
    }
    read
}

#[tokio::test]
async fn a_stamp_is_the_same_whether_its_batch_is_pulled_or_read_by_itself() {
    let server = Server::start();
    apply(&server, 1);
    let headers = [
        ("", None),
        ("Other: a 1 1 1\r\n", None),
        ("Jetfold-Stamp: shop-1 2 7 41\r\n", Some("shop-1 2 7 41")),
        ("Other: b\r\nJetfold-Stamp:a 1 2 0\r\n", Some("a 1 2 0")),
        ("Jetfold-Stamp: a 1 3 0\r\nJetfold-Stamp: b 1 1 0\r\n", Some("a 1 3 0")),
        ("Jetfold-Stamp: a 1 4\r\n 5 \r\n", Some("a 1 4 5")),
        ("Jetfold-Stamp: a 1 0 5\r\n", None),
        ("jetfold-stamp: a 1 5 5\r\n", None),
    ];
    for (headers, _) in headers {
        publish_raw(&server, "chunks.0", &format!("NATS/1.0\r\n{headers}\r\n"), b"payload");
    }
    let (names, connection) = (names(""), connection(&server).await);
    let mut log = Log::new(connection, &names, 0, "w", pull_bytes(1 << 20, 1), Arc::default());
    let pulled = read(log.open(0).await.unwrap().source, headers.len()).await;
    let one_by_one = read(log.open_one_by_one(0, 64), headers.len()).await;
    for ((pulled, by_itself), (headers, expected)) in pulled.iter().zip(&one_by_one).zip(headers) {
        assert_eq!(pulled.stamp.as_ref().map(ToString::to_string).as_deref(), expected, "{headers:?}");
        assert_eq!(by_itself.stamp, pulled.stamp, "{headers:?}");
        assert_eq!((by_itself.position, by_itself.time), (pulled.position, pulled.time));
        assert_eq!(by_itself.payload, pulled.payload);
    }
}
