//! `Proxy`: a link in front of one port that can be cut as a cable is, or slowed down.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// How long a port of this machine may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(2);

/// What is carried at once. A slow link carries so much at a time.
const PIECE: usize = 64 << 10;

/// What a link does with what is sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Through,
    /// Each piece is so late, and no more bytes a second come through, in each direction.
    Slow {
        delay: Duration,
        bytes_a_second: u64,
    },
    /// What is open is reset, and nothing new comes about.
    Cut,
}

/// A link to one port, until it is dropped.
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    /// Connections that are open, and pieces that were held up.
    open: Arc<AtomicU64>,
    slowed: Arc<AtomicU64>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Listens at any free port of this machine.
    pub async fn start(to: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (mode, of_links) = watch::channel(Mode::Through);
        let (open, slowed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (open.clone(), slowed.clone());
        let accepting = tokio::spawn(async move {
            // Its links end with it.
            let mut links = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((near, _)) => _ = links.spawn(link(near, to, of_links.clone(), counters.clone())),
                        // Out of descriptors, for a moment.
                        Err(_) => sleep(Duration::from_millis(10)).await,
                    },
                    Some(_) = links.join_next() => {}
                }
            }
        });
        Ok(Self { port, mode, open, slowed, _accepting: AbortOnDropHandle::new(accepting) })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// From now on. How many connections are open.
    pub fn set(&self, mode: Mode) -> u64 {
        let open = self.open.load(Ordering::Relaxed);
        self.mode.send_replace(mode);
        open
    }

    /// Pieces that were held up so far.
    pub fn slowed(&self) -> u64 {
        self.slowed.load(Ordering::Relaxed)
    }
}

type Counted = (Arc<AtomicU64>, Arc<AtomicU64>);

/// Carries both directions of one connection, until either end closes it or the link is cut.
async fn link(near: TcpStream, to: u16, mut mode: watch::Receiver<Mode>, (open, slowed): Counted) {
    if *mode.borrow() == Mode::Cut {
        reset(&near);
        return;
    }
    let Ok(Ok(far)) = timeout(CONNECTING, TcpStream::connect((Ipv4Addr::LOCALHOST, to))).await else { return };
    // What is small and urgent must not wait for company twice.
    near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).ok();
    open.fetch_add(1, Ordering::Relaxed);
    let modes = mode.clone();
    let (mut near, mut far) = (near, far);
    let is_cut = {
        let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.split(), far.split());
        tokio::select! {
            _ = carry(&mut near_in, &mut far_out, &modes, &slowed) => false,
            _ = carry(&mut far_in, &mut near_out, &modes, &slowed) => false,
            cut = mode.wait_for(|mode| *mode == Mode::Cut) => cut.is_ok(),
        }
    };
    if is_cut {
        reset(&near);
        reset(&far);
    }
    drop((near, far));
    open.fetch_sub(1, Ordering::Relaxed);
}

/// With nothing to linger for, a close is a reset.
fn reset(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
}

async fn carry(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mode: &watch::Receiver<Mode>,
    slowed: &AtomicU64,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return Ok(());
        }
        let now = *mode.borrow();
        if let Mode::Slow { delay, bytes_a_second } = now {
            slowed.fetch_add(1, Ordering::Relaxed);
            sleep(delay + Duration::from_secs_f64(read as f64 / bytes_a_second as f64)).await;
        }
        to.write_all(&piece[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// Answers each connection with what it says.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        port
    }

    async fn there_and_back(stream: &mut TcpStream) -> io::Result<Duration> {
        let began = Instant::now();
        stream.write_all(b"what").await?;
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await?;
        Ok(began.elapsed())
    }

    #[tokio::test]
    async fn a_link_carries_and_is_slow_and_is_cut_and_is_there_again() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        there_and_back(&mut stream).await.unwrap();
        proxy.set(Mode::Slow { delay: Duration::from_millis(100), bytes_a_second: 1 << 20 });
        assert!(there_and_back(&mut stream).await.unwrap() >= Duration::from_millis(200));
        assert_eq!(proxy.slowed(), 2);
        assert_eq!(proxy.set(Mode::Cut), 1);
        let error = there_and_back(&mut stream).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(there_and_back(&mut refused).await.is_err());
        assert_eq!(proxy.set(Mode::Through), 0);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        there_and_back(&mut stream).await.unwrap();
    }
}
