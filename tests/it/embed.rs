//! `examples/embed.rs`: a summer within another service.

use crate::support::{Process, Program, Server, apply, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

/// The address that it says it listens on.
fn address(service: &Process) -> Option<String> {
    let said = String::from_utf8(service.stdout_so_far()).unwrap();
    said.lines().find_map(|line| line.strip_prefix("listening on ")).map(str::to_owned)
}

#[test]
fn a_service_sums_and_answers_at_once() {
    // With only some of the tests asked for, cargo has not built it.
    let built =
        Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "--workspace", "--examples"]).status();
    assert!(built.unwrap().success());
    let server = Server::start();
    apply(&server, 2);
    let folder = tempfile::tempdir().unwrap();
    let service = Program::example("embed")
        .arg("127.0.0.1:0")
        .env("STREAM_SUM_NATS__SERVERS", &server.url())
        .env("STREAM_SUM_SUMMER__DATA_DIR", folder.path().to_str().unwrap())
        .spawn();
    Program::at(&server, "chunker --streams 50 --id-prefix 0badcafe").run().expect(0);
    wait_for("its address", || address(&service).is_some());
    let mut connection = TcpStream::connect(address(&service).unwrap()).unwrap();
    connection.write_all(b"0badcafe000000000000000000000031\nno ID\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    let final_line = lines.next().unwrap();
    let get = Program::at(&server, "get 0badcafe000000000000000000000031").run().expect(0);
    assert_eq!(format!("{final_line}\n"), get.stdout());
    assert!(lines.next().unwrap().contains("32"), "what an ID looks like");
    service.stop().expect(0);
}
