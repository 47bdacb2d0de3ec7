//! `accept`: tells the summers that run that what a log has lost is accepted.

use crate::sum::names::names;
use crate::sum::topology_section;
use jetfold::nats::connect::{self, ConnectError};
use jetfold::{Acceptance, Accepting, CannotTell};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    CannotTell(#[from] CannotTell),
    #[error(
        "no summer that runs holds partition {partition}, so nothing was accepted: start one, and say it again while it looks at the log, or start it with --accept {loss}:{partition}",
        partition = .0.partition, loss = .0.loss
    )]
    Nobody(Acceptance),
    #[error(
        "nothing was accepted, because no summer has found partition {} to be {}: {said}", .acceptance.partition, .acceptance.loss
    )]
    NotInQuestion { acceptance: Acceptance, said: String },
}

/// How soon it is said again to those who have not taken it.
const AGAIN: Duration = Duration::from_secs(1);

/// A line of who has taken it, within `wait`.
pub async fn run(
    acceptance: Acceptance,
    wait: Duration,
    nats: &connect::Config,
    topology: &topology_section::Config,
) -> Result<String, AcceptError> {
    let connection = connect::connect(nats, "stream-sum accept").await?;
    let names = names(&topology.prefix);
    let until = Instant::now() + wait;
    loop {
        let told = connection.unless_denied(jetfold::accept(&connection, &names, acceptance)).await??;
        let answer = judge(acceptance, &told);
        if answer.is_ok() || Instant::now() >= until {
            return answer;
        }
        sleep(AGAIN).await;
    }
}

fn judge(acceptance: Acceptance, told: &[Accepting]) -> Result<String, AcceptError> {
    match told.iter().find(|answer| answer.taken) {
        Some(Accepting { worker, .. }) => {
            Ok(format!("{worker} accepts what partition {} has lost, and goes on\n", acceptance.partition))
        }
        None if told.is_empty() => Err(AcceptError::Nobody(acceptance)),
        None => {
            let said = told.iter().map(|Accepting { worker, stands, .. }| format!("{worker} says {stands}"));
            let said = said.collect::<Vec<_>>().join("; ");
            Err(AcceptError::NotInQuestion { acceptance, said })
        }
    }
}
