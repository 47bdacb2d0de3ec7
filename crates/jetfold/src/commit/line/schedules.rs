//! Whatever happens in whatever order, nothing is committed that is not confirmed, or that was lost before it was looked at.
//!
//! A loss is told by one of the signs of [`doubt`](crate::commit::doubt), since none that gives no sign can be known: that is what the
//! model here assumes of the world.

use crate::commit::effect::{Confirmed, Subject};
use crate::commit::inspection::world::{World, checkpoint, leaders, transaction};
use crate::commit::inspection::{Asked, Step};
use crate::commit::line::*;
use crate::sample::{Letters, Said};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// No server that has lost its memory answers again within this.
const RESTART: Duration = Duration::from_millis(150);

/// What may happen next. Numbers choose one of several, or say how many; what is not possible then happens to nobody.
#[derive(Clone, Copy, Debug)]
enum Event {
    Effects(u64),
    Seal,
    /// The server takes one of the publishes, and answers.
    Served(usize),
    /// One is answered by nobody, and may be stored.
    Unanswered(usize, bool),
    /// The oldest acknowledgement arrives, or what became of one that was published until it was found.
    Acked,
    Found(usize),
    /// One question of the inspection is answered.
    Replied(usize),
    Written,
    /// Nothing comes for a while.
    Silence,
    /// Somebody else's outputs.
    Others(u64),
    Elected,
    Reconnected,
    /// The stream of outputs loses so many of the messages that it has acknowledged, and then gets so many of others.
    Lost(u64, u64, Tell),
}

/// How a loss can be told: one for each [sign](crate::commit::doubt).
#[derive(Clone, Copy, Debug)]
enum Tell {
    Silence,
    Elected,
    Reconnected,
    Unanswered,
    Backwards,
}

/// What happens if nothing goes wrong.
fn calm() -> impl Strategy<Value = Event> {
    let which = 0..1000_usize;
    prop_oneof![
        4 => (0..=200_u64).prop_map(Event::Effects),
        2 => Just(Event::Seal),
        12 => which.clone().prop_map(Event::Served),
        12 => Just(Event::Acked),
        3 => which.clone().prop_map(Event::Found),
        8 => which.prop_map(Event::Replied),
        3 => Just(Event::Written),
        1 => (1..40_u64).prop_map(Event::Others),
    ]
}

fn lost() -> impl Strategy<Value = Event> {
    (1..40_u64, 0..80_u64, tells()).prop_map(|(many, others, tell)| Event::Lost(many, others, tell))
}

fn trouble() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..1000_usize, any::<bool>()).prop_map(|(which, stored)| Event::Unanswered(which, stored)),
        Just(Event::Silence),
        Just(Event::Elected),
        Just(Event::Reconnected),
        lost(),
    ]
}

/// Trouble all along; or a calm with a single loss in it, which nothing else gives away.
fn schedules() -> impl Strategy<Value = Vec<(Event, usize)>> {
    let times = 1..40_usize;
    let troubled = prop_oneof![9 => calm(), 1 => trouble()];
    let quiet = || vec((calm(), 1..40_usize), 1..60);
    prop_oneof![
        vec((troubled, times), 1..150),
        (quiet(), lost(), quiet())
            .prop_map(|(before, lost, after)| { before.into_iter().chain([(lost, 1)]).chain(after).collect() }),
    ]
}

fn tells() -> impl Strategy<Value = Tell> {
    proptest::sample::select(vec![Tell::Silence, Tell::Elected, Tell::Reconnected, Tell::Unanswered, Tell::Backwards])
}

/// A shell around a line that owes nothing to the network.
struct Shell {
    line: Line<Letters, ()>,
    world: World,
    now: Duration,
    connects: u64,
    /// The outputs of the open transaction, and the next that was never used.
    open: Vec<u64>,
    next: u64,
    sealed: u64,
    written: u64,
    /// How many outputs each transaction has.
    put_out: BTreeMap<u64, usize>,
    /// Sent, and not yet taken by the server: whether it is published until it is found, and whether a try ended unknown.
    sent: Vec<(u64, Said, bool, bool)>,
    acks: VecDeque<(u64, Said, Answer)>,
    found: Vec<(u64, Outcome<Said>, bool)>,
    confirmed: BTreeSet<Said>,
    inspecting: Option<Box<Inspection<Letters>>>,
    asking: Vec<Asked<Said>>,
    /// Whether effects of the transaction that is inspected were lost before that began.
    is_lost: bool,
    writing: bool,
    has_lost: bool,
    end: Option<Result<(), Failed<Said, ()>>>,
}

impl Shell {
    fn new() -> Self {
        Self {
            line: Line::new(0, checkpoint(0), leaders("a"), 1, false),
            world: World::new(1000),
            now: Duration::ZERO,
            connects: 1,
            open: Vec::new(),
            next: 1,
            sealed: 0,
            written: 0,
            put_out: BTreeMap::new(),
            sent: Vec::new(),
            acks: VecDeque::new(),
            found: Vec::new(),
            confirmed: BTreeSet::new(),
            inspecting: None,
            asking: Vec::new(),
            is_lost: false,
            writing: false,
            has_lost: false,
            end: None,
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.line.next_action() {
            assert!(self.end.is_none(), "nothing comes after the end");
            match action {
                Action::Send(number, said) => self.sent.push((number, said, false, false)),
                Action::Publish(number, Effect::Output(said)) => self.sent.push((number, said, true, false)),
                Action::Inspect(inspection) => {
                    let outputs = inspection.outputs();
                    assert_eq!(outputs.len(), self.put_out[&(self.written + 1)], "none of it is forgotten");
                    self.is_lost = outputs.iter().any(|said| {
                        assert!(self.confirmed.contains(said), "all of it is confirmed");
                        self.world.outputs.find(&Subject::Output(*said)).is_none()
                    });
                    assert!(self.inspecting.replace(inspection).is_none() && !self.writing, "one after the other");
                }
                Action::Write(transaction) => {
                    assert!(!std::mem::replace(&mut self.writing, true), "one after the other");
                    assert_eq!(transaction.number, self.written + 1, "in order");
                    assert!(!self.is_lost, "what was lost is not committed");
                }
                Action::End(result) => self.end = Some(result),
                action => unreachable!("{action:?}"),
            }
        }
        assert!(self.sent.len() + self.acks.len() + self.found.len() <= WINDOW);
        self.inspect();
    }

    fn inspect(&mut self) {
        let Some(inspection) = &mut self.inspecting else { return };
        loop {
            if inspection.connected(self.connects) {
                self.asking.clear();
            }
            match inspection.next_step() {
                Some(Step::Ask(asked)) => self.asking.push(asked),
                Some(Step::Doubted(..)) => {}
                Some(Step::End(found)) => {
                    (self.inspecting, self.asking) = (None, Vec::new());
                    self.line.inspected(found);
                    return self.act();
                }
                None => return assert!(!self.asking.is_empty(), "it waits for replies alone"),
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Effects(many) if self.line.has_room() => {
                let outputs: Vec<u64> = (self.next..).take(many as usize).collect();
                self.next += many;
                self.line.effects(outputs.iter().map(|n| Said(*n)).collect(), None);
                self.open.extend(outputs);
            }
            Event::Seal if self.line.has_room() && self.sealed < self.written + 3 => {
                self.sealed += 1;
                let outputs = std::mem::take(&mut self.open);
                self.put_out.insert(self.sealed, outputs.len());
                self.line.seal(transaction(self.sealed, self.sealed), self.connects);
            }
            Event::Served(which) if !self.sent.is_empty() => {
                let (number, said, until_found, unknown) = self.sent.swap_remove(which % self.sent.len());
                let subject = Subject::Output(said);
                let stored = self.world.outputs.find(&subject);
                let already_there = stored.is_some();
                let sequence = stored.unwrap_or_else(|| self.world.outputs.store(subject));
                let place = Place { sequence, key: said };
                match (until_found, already_there) {
                    (true, _) => {
                        let confirmed = Confirmed { place, already_there, differs: false };
                        self.found.push((number, Outcome::Output(Ok(confirmed)), unknown));
                    }
                    (false, true) => self.acks.push_back((number, said, Answer::SubjectTaken)),
                    (false, false) => self.acks.push_back((number, said, Answer::Stored(sequence))),
                }
            }
            Event::Unanswered(which, is_stored) if !self.sent.is_empty() => {
                let which = which % self.sent.len();
                let (number, said, until_found, _) = self.sent[which];
                let subject = Subject::Output(said);
                if is_stored && self.world.outputs.find(&subject).is_none() {
                    self.world.outputs.store(subject);
                }
                match until_found {
                    true => self.sent[which].3 = true,
                    false => {
                        self.sent.swap_remove(which);
                        self.acks.push_back((number, said, Answer::Unknown));
                    }
                }
            }
            Event::Acked => {
                if let Some((number, said, answer)) = self.acks.pop_front() {
                    if let Answer::Stored(_) = answer {
                        self.confirmed.insert(said);
                    }
                    self.line.acknowledged(number, said, answer, self.now);
                }
            }
            Event::Found(which) if !self.found.is_empty() => {
                let (number, outcome, unknown) = self.found.swap_remove(which % self.found.len());
                if let Outcome::Output(Ok(confirmed)) = &outcome {
                    self.confirmed.insert(confirmed.place.key);
                }
                self.line.confirmed(number, outcome, unknown, self.now);
            }
            Event::Replied(which) if !self.asking.is_empty() => {
                let asked = self.asking.swap_remove(which % self.asking.len());
                let reply = self.world.reply(&asked.question);
                self.inspecting.as_mut().expect("it asks").replied(asked, reply);
            }
            Event::Written if self.writing => {
                (self.writing, self.written) = (false, self.written + 1);
                self.line.written(Ok(()));
            }
            Event::Silence => self.now += RESTART,
            Event::Others(many) => {
                for n in 0..many {
                    self.world.outputs.store(Subject::Output(Said((1 << 32) + self.next + n)));
                }
            }
            Event::Elected => self.world.outputs.elect(),
            Event::Reconnected => {
                self.connects += 1;
                (0..self.sent.len()).rev().for_each(|which| self.happens(Event::Unanswered(which, false)));
            }
            Event::Lost(many, others, tell) => self.lose(many, others, tell),
            _ => {}
        }
    }

    fn lose(&mut self, many: u64, others: u64, tell: Tell) {
        // What was acknowledged before arrives before what is acknowledged afterwards.
        while !self.acks.is_empty() || !self.found.is_empty() {
            self.happens(Event::Acked);
            self.happens(Event::Found(0));
        }
        self.has_lost = true;
        self.world.outputs.lose_behind(self.world.outputs.last.saturating_sub(many));
        let is_sent = self.sent.iter().position(|(_, said, until_found, _)| {
            !until_found && self.world.outputs.find(&Subject::Output(*said)).is_none()
        });
        match (tell, is_sent) {
            (Tell::Elected, _) => self.world.outputs.elect(),
            (Tell::Reconnected, _) => self.happens(Event::Reconnected),
            (Tell::Unanswered, Some(which)) => {
                self.happens(Event::Unanswered(which, false));
                self.happens(Event::Acked);
            }
            (Tell::Backwards, Some(which)) => {
                self.happens(Event::Served(which));
                self.happens(Event::Acked);
            }
            (Tell::Silence | Tell::Unanswered | Tell::Backwards, _) => self.now += RESTART,
        }
        self.happens(Event::Others(others));
    }

    /// Everything that is under way arrives.
    fn finish(&mut self) {
        self.happens(Event::Seal);
        self.line.hang_up();
        self.act();
        while self.end.is_none() {
            let under_way = (self.sent.len(), self.acks.len(), self.found.len(), self.asking.len(), self.writing);
            assert_ne!(under_way, (0, 0, 0, 0, false), "it would wait for ever");
            for event in [Event::Served(0), Event::Acked, Event::Found(0), Event::Replied(0), Event::Written] {
                self.happens(event);
                self.act();
            }
        }
    }
}

proptest! {
    #[test]
    fn any_schedule_commits_in_order_what_is_confirmed_and_nothing_that_was_lost_before_it_was_looked_at(
        schedule in schedules(),
    ) {
        let mut shell = Shell::new();
        for (event, times) in schedule {
            // Those that come by the thousand do so.
            let times = if let Event::Served(_) | Event::Acked | Event::Found(_) | Event::Replied(_) = event { times } else { 1 };
            for n in 0..times {
                let event = match event {
                    Event::Served(which) => Event::Served(which + n),
                    event => event,
                };
                if shell.end.is_none() {
                    shell.happens(event);
                    shell.act();
                }
            }
        }
        if shell.end.is_none() {
            shell.finish();
        }
        match shell.end.expect("it has ended") {
            Ok(()) => prop_assert_eq!(shell.written, shell.sealed),
            Err(Failed::Unsound(Unsound::Elections)) => {}
            Err(failed) => prop_assert!(shell.has_lost, "{:?}", failed),
        }
    }
}
