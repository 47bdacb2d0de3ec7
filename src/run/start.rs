//! A run starts: which IDs its streams have, and from where on finals are watched.

use crate::run::Run;
use crate::run::bad_endings::BadEndings;
use crate::run::claimed::{self, Claimed};
use crate::run::endings::Endings;
use crate::run::lanes::Lanes;
use crate::run::ledger::Ledger;
use crate::run::name::{RunName, Shape};
use crate::run::presence::Moment;
use crate::run::record::{RecordError, Records};
use crate::run::run_finals::RunFinals;
use crate::run::unopened::Unopened;
use crate::run::watch::{self, WatchError};
use crate::run::workload::Workload;
use crate::run::{RunError, TICK};
use crate::sum::Summer;
use crate::sum::stream_id::RunPrefix;
use futures_util::stream::FuturesUnordered;
use jetfold::Patience;
use jetfold::nats::connect::Connection;
use jetfold::nats::topology::{REJECT_HEADROOM, Topology};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Which IDs the streams of a run have.
#[derive(Clone, Debug)]
pub enum Ids {
    /// Behind a prefix that is drawn.
    Drawn,
    /// Behind this one, which must be free.
    Given(RunPrefix),
    /// Those of the run of this name, which may have been begun by an earlier life.
    Named(RunName, Shape),
}

/// What a run is given to start with.
#[derive(Clone, Debug)]
pub struct Options {
    pub ids: Ids,
    /// Streams that are opened at the most.
    pub streams: u64,
    pub deadline: Duration,
    pub batch_bytes: usize,
    /// How long to go on without an answer from NATS; `None`: for ever.
    pub patience: Option<Duration>,
    /// What can be recomputed to judge a final that came again.
    pub workload: Option<Workload>,
    /// Where each ending is told.
    pub endings: Endings,
}

impl Run {
    pub async fn start(
        connection: &Connection,
        topology: &Topology<Summer>,
        options: Options,
    ) -> Result<Self, RunError> {
        let Chosen { finals, claimed } = choose(connection, topology, options.ids).await?;
        let prefix = finals.prefix;
        let from = claimed.as_ref().map(Claimed::before);
        let may_pass = |error: &WatchError| !matches!(error, WatchError::NoSums);
        let watching = connection.ask_at_start(|| watch::watch(finals.clone(), from), may_pass).await?;
        let began = Instant::now();
        let unopened = Unopened::new(prefix, topology.partitions, options.streams);
        let mut ledger = Ledger::new(unopened, options.deadline).telling(options.endings);
        if claimed.is_some() {
            ledger = ledger.with_other_lives();
        }
        let ledger = Arc::new(Mutex::new(ledger));
        let max_payload = connection.client.server_info().max_payload;
        let lanes = Lanes::start(
            connection,
            topology,
            options
                .batch_bytes
                .min(max_payload - REJECT_HEADROOM)
                .min(topology.max_message_bytes.unwrap_or(usize::MAX)),
            Patience { full: options.deadline, unknown: options.patience },
            &ledger,
            began,
            claimed.as_ref().map(Claimed::may_send),
        );
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            prefix,
            began,
            workload: options.workload,
            patience: options.patience,
            connection: connection.clone(),
            finals,
            claimed,
            arrived: watching.head,
            watching,
            ledger,
            lanes,
            asked: VecDeque::new(),
            asking: FuturesUnordered::new(),
            computing: 0,
            ended: VecDeque::new(),
            next_observation: Moment::ZERO,
            ticks,
            delayed: BTreeMap::new(),
            next_warning: Moment::ZERO,
            complaints: Arc::default(),
            bad_endings: BadEndings::default(),
            deadline: options.deadline,
        })
    }
}

/// The prefix of the run, and where its finals are.
struct Chosen {
    finals: RunFinals,
    claimed: Option<Claimed>,
}

async fn choose(connection: &Connection, topology: &Topology<Summer>, ids: Ids) -> Result<Chosen, RunError> {
    let finals_of = |prefix| RunFinals::new(connection.clone(), topology.names.clone(), prefix);
    let given = match ids {
        Ids::Drawn => None,
        Ids::Given(prefix) => Some(prefix),
        Ids::Named(name, shape) => {
            let finals = finals_of(name.derive(shape).0);
            let records = Records::new(finals.clone(), name);
            let claiming = || async {
                let look = claimed::look(connection);
                records.claim(shape).await.map(|claim| (claim, look))
            };
            let (claim, look) = connection.ask_at_start(claiming, RecordError::may_pass).await?;
            let idle_expiry = topology.application.rules().expiry.idle;
            let idle_expiry = Duration::from_nanos(u64::try_from(idle_expiry).unwrap_or(0));
            let claimed = Claimed::new(connection.clone(), records, claim, look, idle_expiry);
            return Ok(Chosen { finals, claimed: Some(claimed) });
        }
    };
    loop {
        let prefix = given.unwrap_or_else(|| RunPrefix(rand::random()));
        let finals = finals_of(prefix);
        match (connection.ask_at_start(|| finals.exist(), |_| true).await?, given) {
            (false, _) => return Ok(Chosen { finals, claimed: None }),
            (true, Some(_)) => return Err(RunError::PrefixTaken(prefix)),
            (true, None) => {}
        }
    }
}
