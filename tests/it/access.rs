//! Who may do what: credentials in all their forms, as they change under running processes, permissions, and limits on
//! connections.

use crate::support::{Ended, PATIENCE, Process, Program, Server, apply, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A server's URL with somebody in it.
fn url(server: &Server, user: &str) -> String {
    server.url().replace("nats://", &format!("nats://{user}@"))
}

/// A server that knows an operator, who may do anything, and another user.
fn server_with(user: &str) -> Server {
    Server::with_config(&users(user))
}

fn users(user: &str) -> String {
    format!("authorization {{ users: [ {{ user: op, password: op }}, {{ user: me, password: me, {user} }} ] }}\n")
}

fn as_operator(server: &Server, arguments: &str) -> Ended {
    Program::new(arguments).env("NATS_URL", &url(server, "op:op")).run()
}

fn as_me(server: &Server, arguments: &str) -> Program {
    Program::new(arguments).env("NATS_URL", &url(server, "me:me"))
}

fn apply_as_operator(server: &Server) {
    Program::new("topology apply --partitions 2")
        .env("NATS_URL", &url(server, "op:op"))
        .env("STREAM_SUM_TOPOLOGY__LOG_MAX_BYTES", "64MiB")
        .run()
        .expect(0);
}

#[track_caller]
fn says(ended: Ended, code: i32, what: &[&str]) {
    let ended = ended.expect(code);
    for what in what {
        assert!(ended.sentence().contains(what), "{what}: {}", ended.sentence());
    }
}

/// The trouble of every partition, as the operator sees it.
fn troubles(server: &Server) -> Vec<String> {
    let ended = as_operator(server, "status --json");
    let status: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let places = status["partitions"].as_array().unwrap().iter();
    let workers = places.flat_map(|place| place["workers"].as_array().unwrap());
    workers.map(|worker| worker["trouble"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_user_and_a_token_in_the_url_are_taken_and_never_shown() {
    let server = Server::with_config("authorization { user: me, password: \"s3cret:/@\" }\n");
    let right = url(&server, "me:s3cret%3A%2F%40");
    Program::new("topology apply --partitions 1").env("NATS_URL", &right).run().expect(0);
    let ended = Program::new("topology show").arg("--server").arg(&right).env("STREAM_SUM_LOG__LEVEL", "trace").run();
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    ended.expect(0);
    let wrong = Program::new("topology show").env("NATS_URL", &url(&server, "me:wrong-s3cret")).run();
    assert!(!wrong.stderr.contains("s3cret"), "{}", wrong.stderr);
    says(wrong, 2, &["refuses these credentials", "the URL"]);
    // Whoever names somebody for this program means nobody that every client is told of.
    let set = Program::new("topology show").env("NATS_URL", &url(&server, "you:x"));
    set.env("STREAM_SUM_NATS__USER", "me").env("STREAM_SUM_NATS__PASSWORD", "s3cret:/@").run().expect(0);
    let both = Program::new("topology show --server").arg(&right).env("STREAM_SUM_NATS__TOKEN", "t0ken").run();
    says(both, 2, &["one way to authenticate"]);

    let server = Server::with_config("authorization { token: t0ken }\n");
    Program::new("topology apply --partitions 1").env("NATS_URL", &url(&server, "t0ken")).run().expect(0);
}

/// Why a test that changes a server's users is left out on older ones.
const RELOADS: &str = "nats-server 2.10 reloads nothing if its store is named on the command line";

/// Starts a summer as the user that a configuration file names, and waits until it folds.
fn summer_of(server: &Server, folder: &Path, config: &Path) -> Process {
    let summer = Program::new("summer --server").arg(server.url()).arg("--config").arg(config);
    let summer = summer.arg("--data-dir").arg(folder.join("data")).spawn();
    summer.wait_for_log("opened the log", 2);
    summer
}

#[test]
fn a_rotated_password_is_read_again_and_a_refusal_until_then_is_one_sentence() {
    if Server::leaves_out_before((2, 11), RELOADS) {
        return;
    }
    let server = server_with("permissions: { publish: \">\" }");
    apply_as_operator(&server);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("secrets.toml");
    let write = |password: &str| fs::write(&config, format!("[nats]\nuser = \"me\"\npassword = \"{password}\"\n"));
    write("me").unwrap();
    let summer = summer_of(&server, folder.path(), &config);
    let opened = || summer.log().iter().filter(|entry| entry["message"] == "opened the log").count();
    let before = opened();
    server.reconfigure(&users("permissions: { publish: \">\" }").replace("password: me", "password: rotated"));
    let refusal = "refuses the credentials";
    wait_for("a refusal", || summer.stderr_so_far().contains(refusal));
    // Each of its four connections is refused again and again meanwhile: the server writes down every try.
    let refused = || server.log().matches("authentication error").count();
    let tries = refused();
    wait_for("many tries", || refused() >= tries + 20);
    let said = summer.stderr_so_far();
    let lines = said.lines().filter(|line| line.contains(refusal) || line.contains("uthorization")).count();
    assert!(lines <= 2, "{lines} lines: {said}");
    write("rotated").unwrap();
    wait_for("the logs to be opened again", || opened() >= before + 2);
    let chunker = Program::new("chunker --streams 20").env("NATS_URL", &url(&server, "me:rotated")).run().expect(0);
    assert!(chunker.stdout().contains("verified                20"));
    summer.signal(Signal::SIGTERM);
    summer.wait_for(PATIENCE).expect(0);
}

#[test]
fn a_renewed_key_file_is_read_again_at_a_reconnect() {
    if Server::leaves_out_before((2, 11), RELOADS) {
        return;
    }
    let [old, new] = [(); 2].map(|()| nkeys::KeyPair::new_user());
    let knows = |key: &nkeys::KeyPair| {
        let key = key.public_key();
        format!("authorization {{ users: [ {{ user: op, password: op }}, {{ nkey: {key} }} ] }}\n")
    };
    let server = Server::with_config(&knows(&old));
    apply_as_operator(&server);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("user.nk");
    fs::write(&file, old.seed().unwrap()).unwrap();
    let summer = Program::new("summer --server").arg(server.url()).arg("--nkey").arg(&file);
    let summer = summer.arg("--data-dir").arg(folder.path().join("data")).spawn();
    summer.wait_for_log("opened the log", 2);
    fs::write(&file, new.seed().unwrap()).unwrap();
    server.reconfigure(&knows(&new));
    summer.wait_for_log("opened the log", 4);
    as_operator(&server, "chunker --streams 20").expect(0);
}

#[test]
fn a_context_of_the_nats_command_line_names_servers_and_credentials() {
    let server = server_with("permissions: { publish: \">\" }");
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("nats/context");
    fs::create_dir_all(&folder).unwrap();
    let context =
        serde_json::json!({"description": "", "url": server.url(), "user": "op", "password": "op", "creds": ""});
    fs::write(folder.join("prod.json"), context.to_string()).unwrap();
    let run = |arguments: &str| Program::new(arguments).env_path("XDG_CONFIG_HOME", home.path());
    run("topology apply --partitions 1 --context prod").run().expect(0);
    // It counts over the environment, and flags over it.
    run("topology show --context prod").env("STREAM_SUM_NATS__TOKEN", "t0ken").run().expect(0);
    says(
        run("topology show --context prod --server nats://127.0.0.1:9")
            .env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "300ms")
            .run(),
        1,
        &["127.0.0.1:9"],
    );
    says(run("topology show --context stage").run(), 2, &["there is no context stage", "known are prod"]);
}

#[test]
fn a_user_with_an_inbox_of_its_own_is_told_so_and_gets_along_with_it() {
    let server = server_with("permissions: { publish: \">\", subscribe: [\"_ME.>\"] }");
    apply_as_operator(&server);
    for command in ["topology show", "summer", "chunker --streams 1", "get 0badcafe000000000000000000000000", "status"]
    {
        let folder = tempfile::tempdir().unwrap();
        let ended = as_me(&server, command).current_dir(folder.path()).run();
        says(ended, 2, &["does not let this user subscribe to _INBOX.", "nats.inbox_prefix"]);
    }
    let with = |arguments: &str| as_me(&server, arguments).env("STREAM_SUM_NATS__INBOX_PREFIX", "_ME");
    let folder = tempfile::tempdir().unwrap();
    let summer = with("summer --data-dir").arg(folder.path()).spawn();
    summer.wait_for_log("opened the log", 2);
    with("chunker --streams 20").run().expect(0);
    says(with("topology show").env("STREAM_SUM_NATS__INBOX_PREFIX", "_ME.*").run(), 2, &["nats.inbox_prefix"]);
}

#[test]
fn a_subject_that_the_server_refuses_is_named_by_whoever_can_not_go_on() {
    let denied = |subject: &str| server_with(&format!("permissions: {{ publish: {{ deny: [\"{subject}\"] }} }}"));
    let server = denied("chunks.>");
    apply_as_operator(&server);
    says(as_me(&server, "chunker --streams 100").run(), 2, &["publish to chunks."]);
    let file = tempfile::NamedTempFile::new().unwrap();
    says(as_me(&server, "sum").arg(file.path()).run(), 2, &["publish to chunks."]);
    let server = denied("$JS.API.>");
    apply_as_operator(&server);
    for command in ["topology apply", "topology show", "chunker", "status", "get 0badcafe000000000000000000000000"] {
        says(as_me(&server, command).run(), 2, &["publish to $JS.API."]);
    }
}

#[test]
fn whoever_may_not_ask_workers_may_still_sum() {
    let server = server_with("permissions: { publish: { deny: [\"summers.>\"] } }");
    apply_as_operator(&server);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a");
    fs::write(&file, "a").unwrap();
    let summing = as_me(&server, "sum").arg(&file).spawn();
    // It asks who folds, and is refused; then somebody does.
    wait_for("a refusal", || summing.stderr_so_far().contains("publish to summers."));
    let data = folder.path().join("data");
    let _summer = Program::new("summer --data-dir").arg(&data).env("NATS_URL", &url(&server, "op:op")).spawn();
    assert!(summing.wait().expect(0).stdout().starts_with("86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"));
}

#[test]
fn a_summer_that_may_not_publish_finals_says_so_in_its_status_until_it_may() {
    if Server::leaves_out_before((2, 11), RELOADS) {
        return;
    }
    let server = server_with("permissions: { publish: { deny: [\"sums.>\"] } }");
    apply_as_operator(&server);
    let folder = tempfile::tempdir().unwrap();
    let summer = as_me(&server, "summer --data-dir").arg(folder.path()).spawn();
    summer.wait_for_log("opened the log", 2);
    let chunker = Program::new("chunker --streams 20").env("NATS_URL", &url(&server, "op:op")).spawn();
    wait_for("the subject in the status", || {
        troubles(&server).iter().any(|trouble| trouble.contains("does not let this user publish to sums."))
    });
    server.reconfigure(&users("permissions: { publish: \">\" }"));
    chunker.wait().expect(0);
    wait_for("no trouble", || troubles(&server).iter().all(String::is_empty));
}

#[test]
fn a_worker_gets_along_with_as_many_connections_as_it_may_have() {
    // One of them is the chunker's, or of whoever asks for the topology.
    let server = Server::with_config("max_connections: 6\n");
    apply(&server, 8);
    let folder = tempfile::tempdir().unwrap();
    let summer = |name: &str| Program::at(&server, "summer --partitions all --data-dir").arg(folder.path().join(name));
    let greedy = summer("a").spawn();
    greedy.wait_for_log("opened the log", 8);
    assert!(greedy.stderr_so_far().contains("gives this worker 6 of 10 connections"), "{}", greedy.stderr_so_far());
    let refused = Program::at(&server, "topology show").env("STREAM_SUM_NATS__STARTUP_TIMEOUT", "300ms").run();
    says(refused, 1, &["takes no more connections", "maximum connections exceeded"]);
    greedy.signal(Signal::SIGTERM);
    greedy.wait_for(PATIENCE).expect(0);
    let modest: Vec<_> = ["b", "c"]
        .map(|name| summer(name).env("STREAM_SUM_SUMMER__CONNECTIONS", if name == "b" { "1" } else { "3" }).spawn())
        .into();
    modest.iter().for_each(|summer| summer.wait_for_log("opened the log", 8));
    // Four are theirs; the fifth is the chunker's, and one is left.
    let chunker = Program::at(&server, "chunker --streams 200").run().expect(0);
    assert!(chunker.stdout().contains("verified               200"));
    assert!(modest.iter().all(|summer| !summer.stderr_so_far().contains("connections")));
}
