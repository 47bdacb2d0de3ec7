//! `Fault`: what a soak does to a system, and where it can do that.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What is done, to one of its kind at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A summer is killed, and started again.
    SummerKill,
    /// A summer is stopped in its tracks (SIGSTOP), and goes on later.
    SummerPause,
    /// A summer is told to stop, as in a rolling restart, and started again.
    SummerStop,
    /// A summer is killed, its folder is removed, and it is started again.
    SummerLostDisk,
    /// The clock of a summer is set.
    SummerClock,
    /// A server is killed, and started again.
    ServerKill,
    /// A server is stopped in its tracks, and goes on later.
    ServerPause,
    /// A server is told to let its clients go and to end (lame duck), and started again.
    ServerStop,
    /// All connections of a server are reset, and none comes about for a while.
    ServerCut,
    /// Whatever goes to and from a server is late, and trickles.
    ServerSlow,
    /// The clock of a server is set.
    ServerClock,
    /// The leaders of all streams step down, again and again.
    LeaderStepDown,
    /// Of three servers two are killed, and started again.
    QuorumGone,
    /// A server is killed, and its folder is put back to what it was a while ago.
    ServerForgets,
    /// The durable consumers of the summers are deleted.
    ConsumerDelete,
    /// A server is removed from the peers of a stream, and comes back.
    PeerRemove,
    /// What is folded is purged from the logs.
    Purge,
}

/// What a soak runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Servers of its own, so many.
    Private { nodes: usize },
    /// Somebody's servers.
    Given,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::SummerKill,
        Self::SummerPause,
        Self::SummerStop,
        Self::SummerLostDisk,
        Self::SummerClock,
        Self::ServerKill,
        Self::ServerPause,
        Self::ServerStop,
        Self::ServerCut,
        Self::ServerSlow,
        Self::ServerClock,
        Self::LeaderStepDown,
        Self::QuorumGone,
        Self::ServerForgets,
        Self::ConsumerDelete,
        Self::PeerRemove,
        Self::Purge,
    ];

    /// What JetStream's API offers: on somebody's servers, only what is allowed of it.
    pub const OF_THE_API: [Self; 4] = [Self::LeaderStepDown, Self::ConsumerDelete, Self::PeerRemove, Self::Purge];

    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => unreachable!("a unit variant is a string"),
        }
    }

    /// Why it can't be done here; `None`: it can.
    pub fn impossible(self, ground: Ground, allowed: &BTreeSet<Self>) -> Option<String> {
        let of_servers = matches!(
            self,
            Self::ServerKill
                | Self::ServerPause
                | Self::ServerStop
                | Self::ServerCut
                | Self::ServerSlow
                | Self::ServerClock
                | Self::QuorumGone
                | Self::ServerForgets
        );
        let of_clocks = matches!(self, Self::SummerClock | Self::ServerClock);
        let of_several = matches!(self, Self::LeaderStepDown | Self::PeerRemove | Self::QuorumGone);
        let is_asked_for = allowed.contains(&self);
        if of_clocks && !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Some("the clock of one process can be set on Linux on x86-64 only".to_owned());
        }
        match ground {
            Ground::Given if of_servers => Some("the servers are not this run's own".to_owned()),
            Ground::Given if Self::OF_THE_API.contains(&self) && !is_asked_for => {
                Some(format!("it changes what the servers hold: --allow {} asks for it", self.name()))
            }
            Ground::Private { nodes: 1 } if of_several => Some("there is one server: --nodes 3".to_owned()),
            Ground::Private { .. } if self == Self::PeerRemove => {
                Some("three servers have no fourth that takes its place".to_owned())
            }
            // With its only server the system forgets; of three, the others know better.
            Ground::Private { .. } if self == Self::ServerForgets && !is_asked_for => Some(
                "JetStream would have forgotten what it has acknowledged: name it with --faults to see that it is found"
                    .to_owned(),
            ),
            Ground::Given | Ground::Private { .. } => None,
        }
    }

    /// How long it lasts, the least and the most.
    pub fn lasts(self) -> (Duration, Duration) {
        let seconds = |least: f64, most: f64| (Duration::from_secs_f64(least), Duration::from_secs_f64(most));
        match self {
            Self::SummerKill | Self::SummerStop | Self::SummerLostDisk | Self::ServerKill => seconds(0.2, 2.0),
            Self::SummerPause => seconds(1.0, 6.0),
            Self::ServerPause => seconds(1.0, 4.0),
            Self::ServerStop => seconds(5.0, 8.0),
            Self::ServerCut | Self::ServerSlow | Self::LeaderStepDown => seconds(2.0, 6.0),
            Self::SummerClock | Self::ServerClock => seconds(3.0, 5.0),
            Self::QuorumGone => seconds(5.0, 15.0),
            Self::ServerForgets | Self::ConsumerDelete | Self::PeerRemove | Self::Purge => seconds(1.0, 2.0),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|fault| fault.name() == text)
            .ok_or_else(|| format!("no fault is called so: {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_the_name_by_which_it_is_found() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
            let (least, most) = fault.lasts();
            assert!(least <= most);
        }
        assert_eq!(Fault::SummerLostDisk.name(), "summer-lost-disk");
        assert!("summer".parse::<Fault>().unwrap_err().contains("summer-kill, summer-pause"));
    }

    #[test]
    fn somebody_s_servers_are_left_alone_unless_what_the_api_offers_is_allowed() {
        let none = BTreeSet::new();
        let possible = |ground, allowed: &BTreeSet<Fault>| -> Vec<String> {
            let possible = Fault::ALL.into_iter().filter(|fault| fault.impossible(ground, allowed).is_none());
            possible.map(Fault::name).collect()
        };
        let own = possible(Ground::Given, &none);
        assert!(own.iter().all(|name| name.starts_with("summer-")), "{own:?}");
        assert!(possible(Ground::Given, &[Fault::Purge].into()).contains(&"purge".to_owned()));
        let alone = possible(Ground::Private { nodes: 1 }, &none);
        assert!(!alone.contains(&"quorum-gone".to_owned()) && alone.contains(&"server-kill".to_owned()));
        let three = possible(Ground::Private { nodes: 3 }, &none);
        assert!(!three.contains(&"peer-remove".to_owned()));
        assert!(three.contains(&"quorum-gone".to_owned()) && !three.contains(&"server-forgets".to_owned()));
        let forgets = [Fault::ServerForgets].into();
        assert!(possible(Ground::Private { nodes: 3 }, &forgets).contains(&"server-forgets".to_owned()));
    }
}
