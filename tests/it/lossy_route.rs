//! A way to a nats-server on which messages get lost: as on a route between servers, whole messages, and nobody is told.

use crate::support::Server;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

pub struct LossyRoute {
    address: SocketAddr,
    /// Messages that are still to be lost.
    to_lose: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl LossyRoute {
    /// One that can lose what is delivered on subjects that begin so.
    pub fn to(server: &Server, losing: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = server.url().trim_start_matches("nats://").to_owned();
        let (to_lose, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (left, ending) = (to_lose.clone(), is_over.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || carry(from, to));
                let left = left.clone();
                thread::spawn(move || deliver(server, client, losing, &left));
            }
        });
        Self { address, to_lose, is_over }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// The next `n` of them that the server delivers get lost.
    pub fn lose(&self, n: u64) {
        self.to_lose.store(n, Ordering::Relaxed);
    }

    pub fn has_lost_them(&self) -> bool {
        self.to_lose.load(Ordering::Relaxed) == 0
    }
}

impl Drop for LossyRoute {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // Wakes up whoever waits for the next client.
        TcpStream::connect(self.address).ok();
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    io::copy(&mut from, &mut to).ok();
    to.shutdown(Shutdown::Both).ok();
}

/// From the server to the client, message by message.
fn deliver(server: TcpStream, mut client: TcpStream, losing: &str, to_lose: &AtomicU64) {
    let mut server = BufReader::new(server);
    while let Ok((subject, frame)) = next_frame(&mut server) {
        let one_less = |n: u64| n.checked_sub(1);
        let is_meant = subject.is_some_and(|subject| subject.starts_with(losing));
        let is_lost = is_meant && to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        if !is_lost && client.write_all(&frame).is_err() {
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
}

/// What the server sends next: a line, and where that is a message its subject and all that belongs to it.
fn next_frame(server: &mut impl BufRead) -> io::Result<(Option<String>, Vec<u8>)> {
    let mut frame = Vec::new();
    if server.read_until(b'\n', &mut frame)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = String::from_utf8_lossy(&frame).into_owned();
    let words: Vec<_> = line.split_whitespace().collect();
    let ["MSG" | "HMSG", subject, .., bytes] = words.as_slice() else { return Ok((None, frame)) };
    let bytes: u64 = bytes.parse().expect("the size of a message");
    server.take(bytes + 2).read_to_end(&mut frame)?;
    Ok((Some((*subject).to_owned()), frame))
}
