//! jetfold's accounts: outputs that are not once a key, each posted once whatever dies, and overdrafts with their reason.

use crate::support::{Program, Server, messages, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Movements of a few accounts, some of which overdraw; and what comes of them, as one fold of each account.
fn movements(lines: i64) -> (String, BTreeMap<String, Vec<String>>, u64) {
    let (mut text, mut posted, mut balances, mut overdrawn) =
        (String::new(), BTreeMap::<String, Vec<String>>::new(), BTreeMap::<String, i64>::new(), 0);
    for n in 0..lines {
        let (account, amount) = (format!("acc-{}", n % 11), n * 7919 % 201 - 104);
        text.push_str(&format!("{account} {amount}\n"));
        let balance = balances.entry(account.clone()).or_default();
        if *balance + amount < 0 {
            overdrawn += 1;
        } else {
            *balance += amount;
            posted.entry(account.clone()).or_default().push(format!("{account} {amount:+} {balance}"));
        }
    }
    (text, posted, overdrawn)
}

fn program(server: &Server, arguments: &str) -> Program {
    Program::of_jetfold("accounts", server, arguments).env("JETFOLD_TOPOLOGY__PARTITIONS", "2")
}

fn keeper(server: &Server, store: &Path) -> Program {
    program(server, "keep")
        .env("JETFOLD_WORKER__CHECKPOINT_INTERVAL", "50ms")
        .env_path("JETFOLD_WORKER__DATA_DIR", store)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_movement_is_posted_once_with_its_balance_whatever_dies_and_an_overdraft_is_rejected() {
    let server = Server::start();
    program(&server, "apply").run().expect(0);
    let folder = tempfile::tempdir().unwrap();
    let (text, expected, overdrawn) = movements(3_000);
    assert!(overdrawn > 100, "{overdrawn}");
    let lines: Vec<&str> = text.lines().collect();
    let post = |lines: &[&str]| {
        let input = folder.path().join("movements");
        fs::write(&input, lines.join("\n")).unwrap();
        program(&server, "post clerk").stdin(&input).run().expect(0);
    };
    // The worker dies where outputs are out and nothing is committed, and elsewhere, each time with something to fold. The clerk
    // starts with the same movements each time, and goes on behind those that are posted.
    for (n, point) in
        ["effects-confirmed:1", "before-commit:1", "after-commit:1", "effects-confirmed:1"].iter().enumerate()
    {
        post(&lines[..(n + 1) * 600]);
        let ended = keeper(&server, &folder.path().join("a")).env("JETFOLD_CRASH_AT", point).spawn().wait();
        assert!(ended.status.code().is_none(), "{point}: {:?} {}", ended.status, ended.stderr);
    }
    post(&lines);
    let keepers = ["a", "b"].map(|name| keeper(&server, &folder.path().join(name)).spawn());
    let jetstream = server.jetstream().await;
    let total: usize = expected.values().map(Vec::len).sum();
    let found = wait_until("all postings", async || {
        let found = messages(&jetstream, "accounts-out").await;
        (found.len() >= total).then_some(found)
    })
    .await;
    let mut posted = BTreeMap::<String, Vec<(Vec<u64>, String)>>::new();
    for message in &found {
        let said = String::from_utf8(message.payload.to_vec()).unwrap();
        let place = message.subject.strip_prefix("accounts.out.").unwrap();
        let place = place.split('.').map(|part| part.parse().unwrap()).collect();
        posted.entry(said.split(' ').next().unwrap().to_owned()).or_default().push((place, said));
    }
    for (account, mut said) in posted {
        // In the order of the log: that of the stream is not kept within a window.
        said.sort();
        let said: Vec<_> = said.into_iter().map(|(_, said)| said).collect();
        assert_eq!(said, expected[&account], "{account}");
    }
    let rejected = messages(&jetstream, "accounts-rejects").await;
    let count: u64 = rejected
        .iter()
        .map(|reject| reject.headers.get("Reject-Count").unwrap().as_str().parse::<u64>().unwrap())
        .sum();
    assert_eq!(count, overdrawn);
    assert!(rejected.iter().all(|reject| reject.headers.get("Reject-Reason").unwrap().as_str() == "overdrawn"));
    let last = expected["acc-3"].last().unwrap().split(' ').next_back().unwrap().to_owned();
    let asked = program(&server, "ask acc-3").run().expect(0);
    assert_eq!(asked.stdout(), format!("{last} after {} movements\n", expected["acc-3"].len()));
    keepers.into_iter().for_each(|keeper| _ = keeper.stop().expect(0));
}
