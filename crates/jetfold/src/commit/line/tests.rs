//! What a line does about each thing that happens, case by case.

use crate::commit::effect::{Confirmed, Subject};
use crate::commit::inspection::Step;
use crate::commit::inspection::world::{World, checkpoint, leaders, mark, transaction};
use crate::commit::line::*;
use crate::refused::Rejections;
use crate::sample::{Letters, Said};
use crate::words::Words;
use bytes::Bytes;

const NOW: Duration = Duration::ZERO;

/// A line behind transaction 0, and what it has handed out.
struct Session {
    line: Line<Letters, &'static str>,
    inspecting: Option<Box<Inspection<Letters>>>,
    writing: Option<Box<Transaction<Letters>>>,
    world: World,
}

impl Session {
    fn new() -> Self {
        Self::with_halt(false)
    }

    fn with_halt(halt: bool) -> Self {
        let committed = Checkpoint { outputs: Some(mark(10)), ..checkpoint(0) };
        let mut world = World::new(1000);
        world.outputs.last = 9;
        world.outputs.store(Subject::Output(Said(999)));
        let line = Line::new(0, committed, leaders("a"), 1, halt);
        Self { line, inspecting: None, writing: None, world }
    }

    /// Takes what is to be done, in words.
    fn actions(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(action) = self.line.next_action() {
            said.push(match action {
                Action::Send(of, Said(n)) => format!("send {n} of {of}"),
                Action::Publish(of, Effect::Output(Said(n))) => format!("publish {n} of {of}"),
                Action::Publish(of, Effect::Reject(batch)) => format!("reject {} of {of}", batch.position),
                Action::LetPass(conflict) => format!("let pass {}", conflict.ours),
                Action::Inspect(inspection) => {
                    let said = format!("inspect through {}", inspection.position());
                    assert!(self.inspecting.replace(inspection).is_none());
                    said
                }
                Action::Write(transaction) => {
                    let said = format!("write {}", transaction.number);
                    assert!(self.writing.replace(transaction).is_none());
                    said
                }
                Action::End(Ok(())) => "end".to_owned(),
                Action::End(Err(Failed::Conflict(_))) => "end: conflict".to_owned(),
                Action::End(Err(Failed::Unsound(unsound))) => format!("end: {}", unsound.said(&Words::DEFAULT)),
                Action::End(Err(Failed::Unwritten(error))) => format!("end: {error}"),
            });
        }
        said
    }

    /// One batch of the open transaction: its outputs, and whether something of it was rejected.
    fn effects(&mut self, outputs: &[u64], rejected: Option<u64>) -> &mut Self {
        let batch = |position| RejectedBatch { position, payload: Bytes::new(), rejections: Rejections::default() };
        self.line.effects(outputs.iter().map(|n| Said(*n)).collect(), rejected.map(batch));
        self
    }

    /// Ends the open transaction.
    fn seal(&mut self, number: u64) -> &mut Self {
        self.line.seal(transaction(number, number * 100), 1);
        self
    }

    fn acked(&mut self, of: u64, n: u64, answer: Answer) -> &mut Self {
        if let Answer::Stored(sequence) = answer {
            self.world.outputs.last = sequence - 1;
            self.world.outputs.store(Subject::Output(Said(n)));
        }
        self.line.acknowledged(of, Said(n), answer, NOW);
        self
    }

    fn stored(&mut self, of: u64, n: u64, sequence: u64) -> &mut Self {
        self.acked(of, n, Answer::Stored(sequence))
    }

    fn conflict(&mut self, of: u64, n: u64) -> &mut Self {
        let (subject, found) = (String::new(), String::new());
        let conflict = Conflict { name: Words::DEFAULT.conflict, ours: n.to_string(), subject, sequence: 1, found };
        self.world.others.push(Said(n));
        self.line.confirmed(of, Outcome::Output(Err(Box::new(conflict))), false, NOW);
        self
    }

    /// Sees the inspection to its end: what all effects were read back for, in each stream.
    fn inspect(&mut self) -> Vec<String> {
        let mut inspection = self.inspecting.take().expect("an inspection");
        let mut doubted = Vec::new();
        loop {
            match inspection.next_step().expect("nothing is left unanswered") {
                Step::Ask(asked) => {
                    let reply = self.world.reply(&asked.question);
                    inspection.replied(asked, reply);
                }
                Step::Doubted(kind, sign) => doubted.push(format!("{}: {sign}", kind.said(&Words::DEFAULT))),
                Step::End(found) => {
                    self.line.inspected(found);
                    return doubted;
                }
            }
        }
    }

    fn write(&mut self) -> u64 {
        self.writing.take().expect("a write");
        self.line.written(Ok(()))
    }
}

#[test]
fn a_transaction_is_inspected_when_it_is_sealed_and_all_of_it_is_confirmed_in_whatever_order() {
    for order in [[1, 2, 3], [3, 1, 2]] {
        let mut session = Session::new();
        session.effects(&[1, 2], None).effects(&[3], None);
        assert_eq!(session.actions(), ["send 1 of 1", "send 2 of 1", "send 3 of 1"]);
        for (sequence, n) in (11..).zip(order) {
            assert!(session.actions().is_empty(), "it is not sealed");
            session.stored(1, n, sequence);
        }
        session.seal(1);
        assert_eq!(session.actions(), ["inspect through 100"]);

        let mut session = Session::new();
        session.effects(&[1, 2, 3], None).seal(1).actions();
        for (sequence, n) in (11..).zip(order) {
            assert!(session.actions().is_empty(), "not all is confirmed");
            session.stored(1, n, sequence);
        }
        assert_eq!(session.actions(), ["inspect through 100"]);
        assert_eq!((session.inspect(), session.actions()), (vec![], vec!["write 1".to_owned()]));
        assert_eq!(session.writing.as_ref().unwrap().checkpoint.outputs, Some(mark(13)));
        session.write();
        assert!(session.actions().is_empty());
    }
}

#[test]
fn a_transaction_without_effects_is_inspected_at_once() {
    let mut session = Session::new();
    session.seal(1).seal(2);
    assert_eq!(session.actions(), ["inspect through 100"]);
    session.inspect();
    assert_eq!(session.actions(), ["write 1"]);
    session.write();
    assert_eq!(session.actions(), ["inspect through 200"]);
}

#[test]
fn effects_of_the_next_transaction_are_confirmed_while_the_first_is_inspected_and_written() {
    let mut session = Session::new();
    session.effects(&[1], None).seal(1).effects(&[2, 3], Some(150)).seal(2);
    assert_eq!(session.actions(), ["send 1 of 1", "send 2 of 2", "send 3 of 2", "reject 150 of 2"]);
    // Ahead of the first's.
    session.stored(2, 3, 11).stored(1, 1, 12);
    assert_eq!(session.actions(), ["inspect through 100"]);
    session.stored(2, 2, 13);
    assert!(session.actions().is_empty());
    session.inspect();
    assert_eq!(session.actions(), ["write 1"]);
    let place = Place { sequence: session.world.rejects.store(Subject::Reject("r".into())), key: "r".into() };
    let confirmed = Confirmed { place, already_there: false, differs: false };
    session.line.confirmed(2, Outcome::Reject(confirmed), false, NOW);
    assert!(session.actions().is_empty(), "one is written, and the other behind it");
    session.write();
    assert_eq!(session.actions(), ["inspect through 200"]);
    assert!(session.inspect().is_empty());
    session.actions();
    let at = session.writing.unwrap().checkpoint;
    assert_eq!((at.outputs, at.rejects), (Some(mark(13)), Some(mark(1))));
}

#[test]
fn what_may_be_there_is_published_until_it_is_found_and_counted_when_it_is_written() {
    let mut session = Session::new();
    session.effects(&[1, 2], None).seal(1).actions();
    session.stored(1, 1, 11).acked(1, 2, Answer::SubjectTaken);
    assert_eq!(session.actions(), ["publish 2 of 1"]);
    let confirmed = Confirmed { place: Place { sequence: 4, key: Said(2) }, already_there: true, differs: false };
    session.line.confirmed(1, Outcome::Output(Ok(confirmed)), false, NOW);
    assert_eq!(session.actions(), ["inspect through 100"]);
    assert!(session.inspect().is_empty(), "what was there already is no sequence given twice");
    session.actions();
    assert_eq!(session.write(), 1);
}

#[test]
fn what_speaks_against_a_stream_counts_for_every_transaction_that_is_not_inspected_yet() {
    let unknown = "out: a publish ended unknown";
    type Happens = fn(&mut Session);
    let signs: [(&str, Happens); 3] = [
        (unknown, |session| {
            session.acked(2, 2, Answer::Unknown);
            assert_eq!(session.actions()[0], "publish 2 of 2");
            session.stored(2, 2, 12);
        }),
        (unknown, |session| {
            session.acked(2, 2, Answer::SubjectTaken).actions();
            session.world.outputs.store(Subject::Output(Said(2)));
            let place = Place { sequence: 12, key: Said(2) };
            let confirmed = Confirmed { place, already_there: true, differs: false };
            session.line.confirmed(2, Outcome::Output(Ok(confirmed)), true, NOW);
        }),
        ("out: sequence 10 was acknowledged after 11", |session| {
            session.line.acknowledged(2, Said(2), Answer::Stored(10), NOW);
            session.world.outputs.messages.insert(10, Subject::Output(Said(2)));
        }),
    ];
    for (sign, happens) in signs {
        let mut session = Session::new();
        session.effects(&[1, 5], None).seal(1).effects(&[2], None).seal(2).actions();
        session.stored(1, 1, 11);
        happens(&mut session);
        // The open one is under way as well, and those that are opened later are not.
        session.effects(&[3], None).seal(3).effects(&[4], None).seal(4).actions();
        session.stored(1, 5, 13).stored(3, 3, 14).stored(4, 4, 15);
        for _ in 0..3 {
            session.actions();
            assert_eq!(session.inspect(), [sign]);
            session.actions();
            session.write();
        }
        session.actions();
        assert!(session.inspect().is_empty(), "it was opened later");
    }
}

#[test]
fn a_conflict_is_let_pass_or_ends_the_session() {
    let mut session = Session::new();
    session.effects(&[1, 2], None).seal(1).actions();
    session.conflict(1, 2);
    assert_eq!(session.actions(), ["let pass 2"]);
    session.acked(1, 1, Answer::Unknown).actions();
    session.stored(1, 1, 11);
    assert_eq!(session.actions(), ["inspect through 100"]);
    assert_eq!(session.inspect().len(), 1);
    assert_eq!(session.actions(), ["write 1"], "one output in the place of one that was let pass");

    let mut session = Session::with_halt(true);
    session.effects(&[1], None).seal(1).actions();
    assert_eq!(session.conflict(1, 1).actions(), ["end: conflict"]);
    session.line.cancel();
    assert!(session.actions().is_empty(), "nothing comes after the end");
}

#[test]
fn a_conflict_waits_for_a_write_and_for_no_inspection_and_is_the_graver_news() {
    for failed in [false, true] {
        let mut session = Session::with_halt(true);
        session.seal(1).effects(&[2], None).actions();
        session.inspect();
        assert_eq!(session.actions(), ["write 1"]);
        assert!(session.conflict(2, 2).actions().is_empty());
        session.line.written(if failed { Err("no disk") } else { Ok(()) });
        assert_eq!(session.actions(), ["end: conflict"]);
    }
    let mut session = Session::with_halt(true);
    session.seal(1).effects(&[2], None).actions();
    assert_eq!(session.conflict(2, 2).actions(), ["end: conflict"]);
    // Found sound, and not handed out for writing yet.
    let mut session = Session::with_halt(true);
    session.seal(1).effects(&[2], None).actions();
    session.inspect();
    assert_eq!(session.conflict(2, 2).actions(), ["end: conflict"]);
}

#[test]
fn who_hangs_up_gets_everything_that_is_sealed_committed() {
    let mut session = Session::new();
    session.effects(&[1], None).seal(1).effects(&[2], None).seal(2).effects(&[3], None).actions();
    session.line.hang_up();
    assert!(!session.line.has_room() && session.actions().is_empty());
    session.stored(1, 1, 11).stored(2, 2, 12).stored(3, 3, 13);
    for action in ["inspect through 100", "inspect through 200"] {
        assert_eq!(session.actions(), [action]);
        session.inspect();
        session.actions();
        session.write();
    }
    assert_eq!(session.actions(), ["end"], "the open transaction is dropped");
    let mut session = Session::new();
    session.line.hang_up();
    assert_eq!(session.actions(), ["end"]);
}

#[test]
fn who_cancels_waits_for_a_write_alone() {
    let mut session = Session::new();
    session.effects(&[1], None).seal(1).actions();
    session.line.cancel();
    assert!(session.line.is_ending() && !session.line.has_room());
    assert_eq!(session.actions(), ["end"]);
    let mut session = Session::new();
    session.seal(1).actions();
    session.line.cancel();
    assert_eq!(session.actions(), ["end"], "an inspection is dropped");
    for (result, end) in [(Ok(()), "end"), (Err("no disk"), "end: no disk")] {
        let mut session = Session::new();
        session.seal(1).seal(2).actions();
        session.inspect();
        session.actions();
        session.line.cancel();
        assert!(session.actions().is_empty());
        session.line.written(result);
        assert_eq!(session.actions(), [end]);
    }
}

#[test]
fn what_is_unsound_or_can_not_be_written_ends_the_session() {
    let mut session = Session::new();
    session.seal(1).effects(&[2], None).actions();
    session.world.log = None;
    session.inspect();
    assert_eq!(session.actions(), ["end: there is no such stream"]);
    let mut session = Session::new();
    session.seal(1).effects(&[2], None).actions();
    session.inspect();
    session.actions();
    assert_eq!(session.line.written(Err("no disk")), 0);
    assert_eq!(session.actions(), ["end: no disk"]);
}

#[test]
fn no_more_than_a_window_is_in_flight_and_more_is_taken_when_the_rest_is_sent() {
    let mut session = Session::new();
    let outputs: Vec<u64> = (1..=WINDOW as u64 + 2).collect();
    session.effects(&outputs, None);
    assert_eq!((session.actions().len(), session.line.has_room()), (WINDOW, false));
    // It is in the window until it is confirmed.
    assert_eq!(session.acked(1, 1, Answer::SubjectTaken).actions(), ["publish 1 of 1"]);
    assert_eq!(session.stored(1, 1, 11).actions(), [format!("send {} of 1", WINDOW + 1)]);
    assert!(!session.line.has_room());
    session.stored(1, 2, 12).actions();
    assert!(session.line.has_room());
}

#[test]
fn each_inspection_goes_on_from_the_marks_and_leaders_of_the_one_before() {
    let mut session = Session::new();
    session.effects(&[1], None).seal(1).actions();
    session.world.outputs.leader.since = Some(7);
    session.stored(1, 1, 11).actions();
    assert_eq!(session.inspect(), ["out: another leader was elected"]);
    session.actions();
    session.write();
    // Opened before the leader was known.
    session.effects(&[2], None).seal(2).actions();
    session.stored(2, 2, 12).actions();
    assert_eq!(session.inspect().len(), 1);
    session.actions();
    session.write();
    session.effects(&[3], None).seal(3).actions();
    session.stored(3, 3, 13).actions();
    assert!(session.inspect().is_empty());
    session.actions();
    session.write();
    assert_eq!(session.line.committed.outputs, Some(mark(13)));
}
