//! A service of its own with a summer inside: ask it for a stream's sum, one ID a line, and it answers with the final.
//!
//! Takes the configuration of stream-sum from the environment, and listens on the address that it is given.

use jetfold::signals;
use std::error::Error;
use stream_sum::StreamId;
use stream_sum::cli::config::{Config, Sources};
use stream_sum::roles::get;
use stream_sum::roles::summing;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::load(Sources { environment: std::env::vars_os().collect(), ..Sources::default() })?;
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7070".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);

    // The summer folds beside the service until it is told to stop. It commits before it returns.
    let stop = signals()?;
    let summing = summing::run(summing::worker(&config.summer, &config.nats, &config.topology), &[], stop);
    let serving = async {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => _ = tokio::spawn(serve(connection, config.clone())),
                Err(error) => eprintln!("a connection was not accepted: {error}"),
            }
        }
    };
    tokio::select! {
        stopped = summing => Ok(stopped?),
        () = serving => unreachable!("it accepts for ever"),
    }
}

/// Answers each line, which is the ID of a stream.
async fn serve(connection: TcpStream, config: Config) {
    let (read, mut write) = connection.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let answer = match line.trim().parse::<StreamId>() {
            Ok(id) => {
                get::run(id, false, &config.nats, &config.topology).await.unwrap_or_else(|error| error.to_string())
            }
            Err(error) => error.to_string(),
        };
        if write.write_all(format!("{answer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}
