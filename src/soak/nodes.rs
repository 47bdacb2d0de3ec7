//! `Nodes`: the servers of a soak that has its own. Each is reached over a link that can be cut, and so is each by each other.

use crate::local::nats_server::{self, ServerError};
use crate::local::server::{LocalServer, LocalServerError};
use crate::local::up::children::{ChildError, Children};
use crate::soak::proxy::{Mode, Proxy};
use jetfold::joined;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long all servers may take to listen.
const LISTENING: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    #[error(transparent)]
    NoProgram(#[from] ServerError),
    #[error(transparent)]
    Server(#[from] LocalServerError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("no free port can be had on this machine ({0}): end what uses them")]
    Ports(io::Error),
}

/// One server.
pub struct Node {
    pub name: String,
    server: LocalServer,
    /// Where it is reached past its link, by whoever watches.
    pub url: String,
    link: Proxy,
}

pub struct Nodes {
    pub nodes: Vec<Node>,
    /// Between each and each other, in each direction.
    links: BTreeMap<(usize, usize), Proxy>,
}

/// Ports that were free a moment ago. All are held until the last is known, so that none is given twice.
fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<Vec<_>>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

impl Nodes {
    /// Starts so many servers below a folder. `mapping` is that of [`LocalServer::new`]; `sync_interval` as nats-server takes it.
    pub async fn start(
        count: usize,
        folder: &Path,
        mapping: &(String, String),
        sync_interval: Option<&str>,
        children: &mut Children,
    ) -> Result<Self, NodesError> {
        let finding = tokio::task::spawn_blocking(|| nats_server::find(&nats_server::tools()));
        let program = joined(finding.await)?;
        let ports = free_ports(2 * count).map_err(NodesError::Ports)?;
        let (clients, routes) = ports.split_at(count);
        let mut links = BTreeMap::new();
        for pair in (0..count).flat_map(|one| (0..count).map(move |other| (one, other))).filter(|(a, b)| a != b) {
            links.insert(pair, Proxy::start(routes[pair.1]).await.map_err(NodesError::Ports)?);
        }
        let mut nodes = Vec::new();
        for (n, client) in clients.iter().copied().enumerate() {
            let name = format!("n{}", n + 1);
            let others = links.iter().filter(|((from, _), _)| *from == n);
            let others: Vec<_> = others.map(|(_, link)| format!("\"nats://{}\"", link.address())).collect();
            let more = configuration(&name, routes[n], &others, sync_interval);
            let folder = folder.join(&name);
            let address = (Ipv4Addr::LOCALHOST, client).into();
            let server = LocalServer::new(program.clone(), &folder, Some(address), Some(mapping), &more)?;
            let link = Proxy::start(client).await.map_err(NodesError::Ports)?;
            let (mut starts, says) = (server.clone(), server.clone());
            children.start_other(name.clone(), move || starts.logged_command(), move || says.last_word())?;
            nodes.push(Node { url: server.url(), name, server, link });
        }
        let deadline = Instant::now() + LISTENING;
        for node in &nodes {
            loop {
                let pid = children.pid(&node.name).unwrap_or_default();
                if node.server.clone().listens(pid) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(LocalServerError::Deaf(LISTENING).into());
                }
                tokio::select! {
                    error = children.supervise() => return Err(error.into()),
                    () = sleep(PAUSE) => {}
                }
            }
        }
        Ok(Self { nodes, links })
    }

    /// Where clients reach them: over the links.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("nats://{}", node.link.address())).collect()
    }

    /// Where they are reached past the links.
    pub fn urls_past_links(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url.clone()).collect()
    }

    /// Sets all links of a server, to clients and to the others. How many connections were open on them, and how many pieces were held
    /// up so far.
    pub fn set(&self, node: usize, mode: Mode) -> (u64, u64) {
        let of_others = self.links.iter().filter(|((from, to), _)| *from == node || *to == node);
        let all = of_others.map(|(_, link)| link).chain([&self.nodes[node].link]);
        all.fold((0, 0), |(open, slowed), link| (open + link.set(mode), slowed + link.slowed()))
    }

    /// Parts all from each other: from now on each has no more than what it has itself.
    pub fn part(&self) {
        self.links.values().for_each(|link| _ = link.set(Mode::Cut));
    }

    /// What a server has stored.
    pub fn store(&self, node: usize) -> PathBuf {
        self.nodes[node].server.store()
    }
}

/// What a server is told beside what every local one is.
fn configuration(name: &str, route: u16, others: &[String], sync_interval: Option<&str>) -> String {
    let mut more = format!("server_name: \"{name}\"\nlame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n");
    if let Some(interval) = sync_interval {
        more += &format!("jetstream {{ max_file_store: 1TB, sync_interval: {interval} }}\n");
    }
    if !others.is_empty() {
        // Others, and clients, are told no address: they come by the links or not at all.
        more += &format!(
            "cluster {{\n  name: soak\n  host: 127.0.0.1\n  port: {route}\n  no_advertise: true\n  cluster_advertise: \"127.0.0.1:1\"\n  \
             routes: [{}]\n}}\n",
            others.join(", ")
        );
    }
    more
}
