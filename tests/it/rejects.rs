//! Rejects, worked off: listed, shown, explained, and sent once more where that helps.

use crate::support::{Ended, Program, Server, apply, batch, id_in, summer, wait_for, wait_until};

async fn publish(server: &Server, partition: u32, payload: Vec<u8>) {
    let jetstream = server.jetstream().await;
    jetstream.publish(format!("chunks.{partition}"), payload.into()).await.unwrap().await.unwrap();
}

fn rejects(server: &Server, arguments: &str) -> Ended {
    Program::at(server, &format!("rejects {arguments}")).run()
}

fn lines(ended: Ended) -> Vec<String> {
    ended.expect(0).stdout().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reject_says_what_was_wrong_how_its_stream_stands_and_is_folded_once_where_it_can_be() {
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let summing = summer(&server, folder.path(), "").spawn();
    let (gap, misrouted, late) = (id_in(0, 2, 6, 0), id_in(1, 2, 6, 1), id_in(0, 2, 6, 2));
    assert_eq!(lines(rejects(&server, "list")), Vec::<String>::new());
    publish(&server, 0, batch(&[(gap, 1, b"a"), (gap, 3, b"c"), (gap, 4, b"d")])).await;
    publish(&server, 0, batch(&[(misrouted, 1, b"x"), (misrouted, 2, b"")])).await;
    publish(&server, 0, batch(&[(late, 2, b"")])).await;
    publish(&server, 0, b"junk".to_vec()).await;
    let listed = wait_until("four rejects", async || {
        let listed = lines(rejects(&server, "list"));
        (listed.len() == 4).then_some(listed)
    });
    let listed = listed.await;
    for (n, (line, said)) in listed
        .iter()
        .zip([
            "2 rejected: 1 gap; 2 broken",
            "2 rejected: 0-1 misrouted",
            "1 rejected: 0 unknown",
            "1 rejected: 0 undecodable",
        ])
        .enumerate()
    {
        let (sequence, position) = (n + 1, n + 1);
        assert!(
            line.starts_with(&format!("{sequence}  20"))
                && line.contains(&format!("  partition 0  position {position}  ")),
            "{line}"
        );
        assert!(line.ends_with(said), "{line}");
    }
    assert_eq!(lines(rejects(&server, "list --reason broken")), listed[..1]);
    assert_eq!(lines(rejects(&server, "list --partition 1")), Vec::<String>::new());
    assert_eq!(lines(rejects(&server, "list --limit 2")), listed[..2]);

    let shown = lines(rejects(&server, "show 1"));
    assert_eq!(shown[0], listed[0]);
    assert_eq!(
        shown[1..],
        [
            format!("0  stream {gap}  chunk 1  1 bytes  -"),
            format!("1  stream {gap}  chunk 3  1 bytes  gap"),
            format!("2  stream {gap}  chunk 4  1 bytes  broken"),
        ]
    );
    let explained = |n: u32| wait_for_explained(&server, n);
    let told = explained(1);
    assert!(
        told[1].starts_with(&format!(
            "1  chunk 3 of stream {gap} was gap: a chunk before it is missing: chunk 2 was to come. By position "
        )),
        "{told:?}"
    );
    assert!(told[1].ends_with(" the stream is broken after chunk 1"), "{told:?}");
    assert!(told[2].contains("all of it goes under another ID"), "{told:?}");
    assert!(explained(2)[1].contains("was misrouted: its stream is of partition 1"), "{:?}", explained(2));
    assert!(explained(3)[1].ends_with(" nothing is known of the stream"), "{:?}", explained(3));
    assert!(explained(4)[1].contains("a batch is one chunk or more"), "{:?}", explained(4));

    // What lost a chunk stays so; what was in the wrong log is folded in the right one, once.
    assert!(lines(rejects(&server, "retry 1")).iter().all(|line| line.contains("can't be folded")));
    assert_eq!(lines(rejects(&server, "retry 2")), ["2 chunks are in the log of partition 1 again, at position 1"]);
    let final_of = |id| Program::at(&server, &format!("get {id}")).run();
    wait_for("the final of what was misrouted", || final_of(misrouted).stdout().contains("seq_no=2  20"));
    // A final is out a moment before it is committed, and what is committed is what is asked for.
    wait_for("its commit", || lines(rejects(&server, "explain 2"))[1].ends_with(" the stream has ended with chunk 2"));
    assert!(lines(rejects(&server, "retry 2")).iter().all(|line| line.contains("can't be folded")));
    // What came before its beginning, once that is there.
    assert!(lines(rejects(&server, "retry 3"))[0].contains("can't be folded: it is unknown still"));
    publish(&server, 0, batch(&[(late, 1, b"late")])).await;
    wait_for("its beginning", || final_of(late).stdout().contains("under way"));
    assert_eq!(lines(rejects(&server, "retry 3")), ["1 chunks are in the log of partition 0 again, at position 6"]);
    wait_for("the final of what was late", || final_of(late).stdout().contains("seq_no=2  20"));
    assert_eq!(lines(rejects(&server, "retry 4")), ["nothing of it can be folded: it is no list of chunks"]);
    assert_eq!(lines(rejects(&server, "list")), listed, "nothing was rejected again");
    drops(&server, &listed);
    let none = rejects(&server, "show 99").expect(1);
    assert!(none.sentence().contains("there is no reject 99"), "{}", none.stderr);
    summing.stop().expect(0);
    let nobody = rejects(&server, "explain 1").expect(1);
    assert!(nobody.sentence().contains("no worker answers for partition 0"), "{}", nobody.stderr);
}

/// One is dropped: once, with a reason that is kept, and nothing else about it changes.
fn drops(server: &Server, listed: &[String]) {
    assert!(rejects(server, "drop 4").expect(2).stderr.contains("--reason <WHY>"));
    let drop = |why: &str| Program::at(server, "rejects drop 4 --reason").arg(why).run();
    assert!(drop("  ").expect(2).stderr.contains("say why it is dropped"));
    drop("no chunks,\nfrom a test").expect(0);
    assert_eq!(lines(rejects(server, "list")), listed[..3]);
    let dropped = lines(rejects(server, "list --dropped"));
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    assert!(dropped[0].starts_with(&format!("{}; dropped 20", listed[3])), "{dropped:?}");
    assert!(dropped[0].ends_with(": no chunks, from a test"), "{dropped:?}");
    assert!(lines(rejects(server, "show 4"))[1].starts_with("it was dropped 20"));
    // Whoever says the same again may not have heard that it is done; another reason does not take its place.
    drop("no chunks,\nfrom a test").expect(0);
    let another = drop("another reason").expect(1);
    assert!(another.sentence().contains("reject 4 was dropped 20"), "{}", another.stderr);
    assert!(another.sentence().ends_with(": no chunks, from a test: that stays"), "{}", another.stderr);
    assert_eq!(lines(rejects(server, "list --dropped")), dropped);
}

/// What is committed of it is told: it may be a moment behind.
fn wait_for_explained(server: &Server, reject: u32) -> Vec<String> {
    let mut told = Vec::new();
    wait_for("an explanation of what is committed", || {
        told = lines(rejects(server, &format!("explain {reject}")));
        reject != 1 || told[1].contains("broken after")
    });
    told
}
