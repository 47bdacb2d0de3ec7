//! Questions to workers: an application's answer may fail, and only that answer.

use super::{push, system};
use crate::support::{Server, wait_until};
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_panics_is_told_as_such_and_the_next_is_given() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let system = system(&server, folder.path()).await;
    let mut publisher = system.publisher().await.unwrap();
    push(&mut publisher, 1, 0).await.unwrap();
    publisher.finish().await.unwrap();
    let key = super::keys(1).remove(0);
    let stop = CancellationToken::new();
    let worker = system.worker().answering(|view, question| {
        assert_ne!(question, b"", "nothing is asked");
        let count = view.get(std::str::from_utf8(question).unwrap())?.unwrap_or(0);
        Ok(count.to_string().into_bytes())
    });
    let working = tokio::spawn(worker.run(stop.clone()));
    let counted = async || system.ask(&key, key.clone()).await.ok().filter(|count| *count == "1");
    wait_until("the count", counted).await;
    let failed = system.ask(&key, "").await.unwrap_err().to_string();
    assert!(
        failed.starts_with("a worker could not answer (it panicked: ") && failed.contains("nothing is asked"),
        "{failed}"
    );
    wait_until("the count, after that", counted).await;
    stop.cancel();
    working.await.unwrap().unwrap();
}
