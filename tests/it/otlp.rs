//! Metrics that are pushed to a collector.

#[cfg(not(feature = "otlp"))]
use crate::support::Program;

#[cfg(not(feature = "otlp"))]
#[test]
fn a_program_that_can_not_push_says_how_it_is_built_so_that_it_can() {
    for command in ["chunker --streams 1", "summer"] {
        let ended = Program::new(command).env("STREAM_SUM_OTLP__ENDPOINT", "http://127.0.0.1:4318").run().expect(2);
        assert!(ended.sentence().contains("--features otlp"), "{}", ended.stderr);
    }
}

#[cfg(feature = "otlp")]
mod pushed {
    use crate::support::{Program, Server, apply, summer, wait_for};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    /// What a collector has been told, in bytes: names and labels stand there as they are.
    struct Collector {
        address: String,
        told: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    impl Collector {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let told = Arc::new(Mutex::new(Vec::new()));
            let telling = told.clone();
            std::thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    let telling = telling.clone();
                    std::thread::spawn(move || take(&connection, &telling));
                }
            });
            Self { address, told }
        }

        /// Whether all of these stood in one message.
        fn has(&self, words: &[&str]) -> bool {
            let has = |told: &Vec<u8>, word: &str| told.windows(word.len()).any(|found| found == word.as_bytes());
            self.told.lock().unwrap().iter().any(|told| words.iter().all(|word| has(told, word)))
        }
    }

    fn take(connection: &TcpStream, telling: &Mutex<Vec<Vec<u8>>>) {
        let (mut reader, mut writer) = (BufReader::new(connection), connection);
        loop {
            let (mut length, mut line, mut head) = (0, String::new(), String::new());
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(("content-length", value)) = line.to_lowercase().split_once(':') {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
                line.clear();
            }
            if head.is_empty() {
                return;
            }
            assert!(head.starts_with("POST /v1/metrics "), "{head}");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            telling.lock().unwrap().push(body);
            writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        }
    }

    #[test]
    fn a_summer_and_a_chunker_push_what_they_measure() {
        let (server, collector) = (Server::start(), Collector::start());
        apply(&server, 2);
        let folder = tempfile::tempdir().unwrap();
        let told = |program: Program| {
            program.env("STREAM_SUM_OTLP__ENDPOINT", &collector.address).env("STREAM_SUM_OTLP__INTERVAL", "200ms")
        };
        let summing = told(summer(&server, folder.path(), "--worker counted")).spawn();
        told(Program::at(&server, "chunker --streams 50 --chunks 20")).run().expect(0);
        // Counted as it happens, looked at before each time, and a histogram; of the chunker its ledger.
        let of_summer = ["jetfold_records_total", "jetfold_position", "jetfold_commit_duration_seconds", "counted"];
        wait_for("what a summer measures", || collector.has(&[&of_summer[..], &["stream-sum", "By"]].concat()));
        wait_for("what a chunker measures", || collector.has(&["stream_sum_streams_ended_total", "verified"]));
        summing.stop().expect(0);
    }

    #[test]
    fn a_collector_that_is_away_is_complained_of_and_holds_nobody_up() {
        let server = Server::start();
        apply(&server, 2);
        let folder = tempfile::tempdir().unwrap();
        let told = |program: Program, endpoint: &str| {
            program.env("STREAM_SUM_OTLP__ENDPOINT", endpoint).env("STREAM_SUM_OTLP__INTERVAL", "200ms")
        };
        let summing = told(summer(&server, folder.path(), ""), "http://127.0.0.1:1").spawn();
        summing.wait_for_log("metrics were not pushed", 1);
        Program::at(&server, "chunker --streams 50").run().expect(0);
        summing.stop().expect(0);
        for wrong in ["127.0.0.1:4318", "https://127.0.0.1:4318", "http://", "http://a b"] {
            let ended = told(summer(&server, folder.path(), ""), wrong).run().expect(2);
            assert!(ended.sentence().contains("it is no address as http://127.0.0.1:4318"), "{}", ended.stderr);
        }
    }
}
