//! A link to a nats-server that is slow, breaks, or carries one way only, and counts what it has done.

use crate::support::Server;
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are carried at once.
const PIECE: usize = 64 << 10;

/// Pieces on their way at the most: whoever sends more waits.
const UNDER_WAY: usize = 256;

/// How often a link that is cut looks whether it still is.
const LOOK: Duration = Duration::from_millis(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    /// Each byte arrives so much later.
    Late(Duration),
    /// So many bytes a second, in each direction.
    Slow(u64),
    /// Nothing passes, and nothing is closed.
    Cut,
    /// What goes to the server is lost, while the connection stands.
    LostToServer,
    /// What comes from the server is lost.
    LostFromServer,
    /// No connection is made.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToServer,
    FromServer,
}

struct Shared {
    trouble: Mutex<Trouble>,
    /// How often it has had effect: pieces that came late or were held up, bytes that were lost, connections that were closed.
    effects: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    /// Whether connections end by resets.
    resets: AtomicBool,
    is_over: AtomicBool,
}

pub struct BadLink {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl BadLink {
    pub fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = server.url().trim_start_matches("nats://").to_owned();
        let shared = Arc::new(Shared {
            trouble: Mutex::new(Trouble::None),
            effects: AtomicU64::new(0),
            open: Mutex::default(),
            resets: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let client = client.unwrap();
                if accepting.trouble() == Trouble::Refused {
                    accepting.has_effect(1);
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let ends = [client.try_clone().unwrap(), server.try_clone().unwrap()];
                accepting.open.lock().unwrap().extend(ends);
                accepting.carry(client.try_clone().unwrap(), server.try_clone().unwrap(), Direction::ToServer);
                accepting.carry(server, client, Direction::FromServer);
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub fn has(&self, trouble: Trouble) {
        *self.shared.trouble.lock().unwrap() = trouble;
    }

    /// Closes every connection.
    pub fn break_all(&self) {
        self.shared.resets.store(false, Ordering::Relaxed);
        let open = std::mem::take(&mut *self.shared.open.lock().unwrap());
        self.shared.has_effect(open.len() as u64 / 2);
        open.iter().for_each(|end| _ = end.shutdown(Shutdown::Both));
    }

    /// Closes every connection as one is closed whose process has crashed, or whose router has forgotten it: by a reset.
    pub fn reset_all(&self) {
        self.shared.resets.store(true, Ordering::Relaxed);
        let open = std::mem::take(&mut *self.shared.open.lock().unwrap());
        self.shared.has_effect(open.len() as u64 / 2);
        for end in &open {
            // With nothing to linger for, the last close is a reset. Whoever reads here is woken up, and closes.
            setsockopt(end, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
            end.shutdown(Shutdown::Read).ok();
        }
    }

    /// How often there was an effect since this was last asked.
    pub fn take_effects(&self) -> u64 {
        self.shared.effects.swap(0, Ordering::Relaxed)
    }
}

impl Drop for BadLink {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.break_all();
        // Wakes up whoever waits for the next client.
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn trouble(&self) -> Trouble {
        *self.trouble.lock().unwrap()
    }

    fn has_effect(&self, times: u64) {
        self.effects.fetch_add(times, Ordering::Relaxed);
    }

    /// Carries one direction of a connection, on two threads: one takes in, one hands out when it is time.
    fn carry(self: &Arc<Self>, mut from: TcpStream, to: TcpStream, direction: Direction) {
        let (pieces, taken) = sync_channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let (taking, handing) = (self.clone(), self.clone());
        thread::spawn(move || {
            let mut piece = vec![0; PIECE];
            while let Ok(bytes @ 1..) = from.read(&mut piece) {
                let mut at = Instant::now();
                match taking.trouble() {
                    Trouble::LostToServer if direction == Direction::ToServer => {
                        taking.has_effect(bytes as u64);
                        continue;
                    }
                    Trouble::LostFromServer if direction == Direction::FromServer => {
                        taking.has_effect(bytes as u64);
                        continue;
                    }
                    Trouble::Late(late) => {
                        taking.has_effect(1);
                        at += late;
                    }
                    _ => {}
                }
                if pieces.send((at, piece[..bytes].to_vec())).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || handing.hand_out(&taken, to));
    }

    fn hand_out(&self, pieces: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
        while let Ok((at, piece)) = pieces.recv() {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if matches!(self.trouble(), Trouble::Cut | Trouble::Slow(_)) {
                self.has_effect(1);
            }
            while self.trouble() == Trouble::Cut && !self.is_over.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
            }
            if let Trouble::Slow(bytes_per_s) = self.trouble() {
                thread::sleep(Duration::from_secs_f64(piece.len() as f64 / bytes_per_s as f64));
            }
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        // A connection that was ended here would not be reset.
        if !self.resets.load(Ordering::Relaxed) {
            to.shutdown(Shutdown::Both).ok();
        }
    }
}
