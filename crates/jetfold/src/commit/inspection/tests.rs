//! What an inspection asks, and how it ends, case by case.

use crate::commit::inspection::world::{World, checkpoint, leader, leaders, log_state, mark, place, transaction};
use crate::commit::inspection::*;
use crate::identity::{Forgot, MessageMark, Verdict};
use crate::sample::{Letters, Said};
use crate::words::Words;
use std::time::Duration;

/// A transaction through position 50, the marks before it at 1, and leaders who know all of it.
struct Case {
    transaction: Box<Transaction<Letters>>,
    evidence: Evidence<Said>,
    before: Checkpoint,
    known: Leaders,
    world: World,
}

impl Case {
    /// These outputs were confirmed, at those times in milliseconds. Output n is at sequence n + 1.
    fn of(outputs: &[(u64, u64)]) -> Self {
        let mut world = World::new(50);
        world.outputs.store(Subject::Output(Said(999)));
        world.rejects.store(Subject::Reject("r0".to_owned()));
        let mut trail = Trail::led_by(Some(leader("a")));
        for (n, at) in outputs {
            let sequence = world.outputs.store(Subject::Output(Said(*n)));
            trail.confirmed(place(sequence, *n), Duration::from_millis(*at));
        }
        let evidence = Evidence {
            outputs: trail,
            rejects: Trail::led_by(Some(leader("a"))),
            confirmed_outputs: outputs.iter().map(|(n, _)| Said(*n)).collect(),
            reject_subjects: Vec::new(),
            connects: 1,
        };
        Self {
            transaction: transaction(1, 50),
            evidence,
            before: Checkpoint { outputs: Some(mark(1)), rejects: Some(mark(1)), ..checkpoint(40) },
            known: leaders("a"),
            world,
        }
    }

    /// Three outputs, one right after the other.
    fn three() -> Self {
        Self::of(&[(1, 0), (2, 1), (3, 2)])
    }

    fn rejects(mut self, subjects: &[&str]) -> Self {
        for subject in subjects.iter().map(|subject| (*subject).to_owned()) {
            let key = Subject::Reject(subject.clone());
            let sequence = self.world.rejects.store(key.clone());
            self.evidence.rejects.confirmed(Place { sequence, key }, Duration::ZERO);
            self.evidence.reject_subjects.push(subject);
        }
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn inspection(&self) -> Inspection<Letters> {
        Inspection::new(self.transaction.clone(), self.evidence.clone(), self.before, self.known.clone())
    }

    /// Answers each question at once: what was asked, and how it ended.
    fn run(mut self) -> (Vec<String>, Result<Sound<Letters>, Unsound<Said>>) {
        let mut inspection = self.inspection();
        let mut said = Vec::new();
        loop {
            match inspection.next_step().expect("nothing is left unanswered") {
                Step::Ask(asked) => {
                    said.push(say(&asked));
                    let reply = self.world.reply(&asked.question);
                    inspection.replied(asked, reply);
                }
                Step::Doubted(kind, sign) => said.push(format!("{}: {sign}", said_of(kind))),
                Step::End(end) => {
                    assert!(inspection.next_step().is_none(), "nothing comes after the end");
                    return (said, end);
                }
            }
        }
    }

    fn sound(self) -> (Vec<String>, Sound<Letters>) {
        let (said, end) = self.run();
        (said, end.unwrap())
    }

    fn unsound(self) -> Unsound<Said> {
        self.run().1.unwrap_err()
    }
}

fn said_of(kind: Kind) -> &'static str {
    kind.said(&Words::DEFAULT)
}

fn say(asked: &Asked<Said>) -> String {
    let question = match &asked.question {
        Question::Look(place) => format!("look {} {}", said_of(place.key.kind()), place.sequence),
        Question::Mark(kind, mark) => format!("mark {} {}", said_of(*kind), mark.sequence),
        Question::Output(said) => format!("read {}", said.0),
        Question::Reject(subject) => format!("read {subject}"),
        Question::LogState => "log".to_owned(),
        Question::LogMessage(next) => format!("log {}", next.position),
    };
    format!("{question}{}", if asked.again { " again" } else { "" })
}

const READ_BACK: [&str; 6] = ["look out 4", "read 1", "read 2", "read 3", "look out 4", "mark out 1"];

#[test]
fn without_a_sign_the_furthest_the_mark_before_and_the_log_are_asked_for() {
    let (said, Sound { transaction, leaders: found }) = Case::three().sound();
    assert_eq!(said, ["look out 4", "mark out 1", "log"]);
    assert_eq!((transaction.checkpoint.outputs, transaction.checkpoint.rejects), (Some(mark(4)), Some(mark(1))));
    assert_eq!(found, leaders("a"));
}

#[test]
fn where_nothing_was_confirmed_only_the_log_is_asked_for() {
    let case = Case::of(&[]).with(|case| case.known.outputs = None);
    let (said, Sound { transaction, leaders: found }) = case.sound();
    assert_eq!(said, ["log"]);
    assert_eq!((transaction.checkpoint.outputs, transaction.checkpoint.rejects), (Some(mark(1)), Some(mark(1))));
    assert_eq!(found, Leaders { outputs: None, ..leaders("a") });
}

#[test]
fn each_sign_has_every_effect_of_its_stream_read_back() {
    for sign in [Sign::Backwards { sequence: 3, highest: 3 }, Sign::Unknown, Sign::Silences] {
        let (said, _) = Case::three().rejects(&["r1"]).with(|case| case.evidence.outputs.doubt(sign)).sound();
        assert_eq!((said[0].as_str(), &said[1]), (READ_BACK[0], &format!("out: {sign}")));
        assert_eq!(said[2..7], READ_BACK[1..], "{sign}");
        assert_eq!(said[7..], ["look rejects 2", "mark rejects 1", "log"], "the other stream has forgotten nothing");
    }
    let (said, Sound { leaders: found, .. }) =
        Case::three().with(|case| case.world.outputs.leader = leader("b")).sound();
    assert_eq!((said.len(), said[1].as_str()), (8, "out: another leader was elected"));
    assert_eq!(found.outputs, Some(leader("b")));
    let (said, _) =
        Case::of(&[]).rejects(&["r1", "r2"]).with(|case| case.evidence.rejects.doubt(Sign::Unknown)).sound();
    let expected = ["read r1", "read r2", "look rejects 3", "mark rejects 1", "log"];
    assert_eq!((said[0].as_str(), &said[2..]), ("look rejects 3", &expected.map(str::to_owned)[..]));
}

#[test]
fn what_was_the_furthest_before_a_silence_is_looked_at_unless_all_is_read_back() {
    let silent = || Case::of(&[(1, 0), (2, 200), (3, 201), (4, 400)]);
    assert_eq!(silent().sound().0, ["look out 5", "look out 2", "look out 4", "mark out 1", "log"]);
    let (said, _) = silent().with(|case| case.evidence.outputs.doubt(Sign::Unknown)).sound();
    assert!(!said.contains(&"look out 2".to_owned()), "{said:?}");
}

#[test]
fn leaders_that_change_have_everything_read_back_again_and_three_times_at_the_most() {
    // The first look is led by who led before, and the next one is not.
    let elected = |elections| {
        Case::three().with(|case| {
            case.evidence.outputs.doubt(Sign::Unknown);
            case.world.outputs.elections = elections;
        })
    };
    let rounds = |said: &[String]| said.iter().filter(|said| *said == "read 1").count();
    for (elections, expected) in [(0, 1), (1, 2), (2, 3)] {
        let (said, end) = elected(elections).run();
        assert_eq!((rounds(&said), end.is_ok()), (expected, true), "{elections}");
    }
    let (said, end) = elected(usize::MAX).run();
    assert_eq!((rounds(&said), end.unwrap_err()), (3, Unsound::Elections));
}

#[test]
fn what_has_aged_out_is_not_forgotten_and_leaves_the_mark_as_it_was() {
    let (said, Sound { transaction, .. }) = Case::three()
        .with(|case| {
            case.world.outputs.messages.clear();
            case.world.outputs.first = 5;
        })
        .sound();
    assert_eq!(said, ["look out 4", "log"]);
    assert_eq!(transaction.checkpoint.outputs, Some(mark(1)));
}

#[test]
fn what_is_missed_once_is_there_and_what_is_missed_twice_is_forgotten() {
    let silent = || Case::of(&[(1, 0), (2, 200), (3, 201)]);
    let doubted = || Case::three().with(|case| case.evidence.outputs.doubt(Sign::Unknown));
    for (case, question, sequence, subject) in [
        (silent(), Question::Look(place(4, 3)), Some(4), 3),
        (silent(), Question::Look(place(2, 1)), Some(2), 1),
        (doubted(), Question::Output(Said(2)), None, 2),
    ] {
        let miss = |case: &mut Case, times| case.world.missed = vec![question.clone(); times];
        let Case { transaction, evidence, before, known, world } = case;
        let again = || Case {
            transaction: transaction.clone(),
            evidence: evidence.clone(),
            known: known.clone(),
            world: world.clone(),
            before,
        };
        let (said, end) = again().with(|case| miss(case, 1)).run();
        let asked = say(&Asked { question: question.clone(), again: true, look: 1 });
        assert!(end.is_ok() && said.iter().filter(|said| **said == asked).count() == 1, "{said:?}");
        let forgotten = Unsound::Forgotten { subject: Subject::Output(Said(subject)), sequence };
        assert_eq!(again().with(|case| miss(case, 2)).unsound(), forgotten);
    }
    let lost = Case::of(&[]).rejects(&["r1", "r2"]).with(|case| {
        case.evidence.rejects.doubt(Sign::Unknown);
        case.world.rejects.messages.remove(&2);
    });
    let subject = Subject::Reject("r1".to_owned());
    assert_eq!(lost.unsound(), Unsound::Forgotten { subject, sequence: None });
}

#[test]
fn another_at_the_sequence_of_the_furthest_is_no_trace_of_it() {
    let grown_again = Case::three().with(|case| {
        case.world.outputs.lose_behind(3);
        case.world.outputs.store(Subject::Output(Said(77)));
    });
    let subject = Subject::Output(Said(3));
    assert_eq!(grown_again.unsound(), Unsound::Forgotten { subject, sequence: Some(4) });
}

#[test]
fn another_output_in_the_place_of_one_that_was_confirmed_is_found_if_it_is_read_back() {
    let other = |doubted: bool| {
        Case::three().with(|case| {
            if doubted {
                case.evidence.outputs.doubt(Sign::Unknown);
            }
            case.world.others = vec![Said(2)];
        })
    };
    assert_eq!(other(true).unsound(), Unsound::Another);
    assert!(other(false).run().1.is_ok());
}

#[test]
fn the_furthest_is_the_one_that_was_read_back() {
    let moved = Case::three().with(|case| {
        case.evidence.outputs.doubt(Sign::Unknown);
        case.world.outputs.messages.remove(&2);
        case.world.outputs.store(Subject::Output(Said(1)));
    });
    let (said, Sound { transaction, .. }) = moved.sound();
    assert_eq!((said[5].as_str(), transaction.checkpoint.outputs), ("look out 5", Some(mark(5))));
}

#[test]
fn the_mark_before_must_be_there_when_it_is_replaced() {
    let forgot = Forgot { recorded: 1, recorded_at: 10, last: 4, made_anew: false };
    let lost = Case::three().with(|case| drop(case.world.outputs.messages.remove(&1)));
    assert_eq!(lost.unsound(), Unsound::Judged(Verdict::OutputsForgot(forgot)));
    let lost = Case::of(&[]).rejects(&["r1"]).with(|case| drop(case.world.rejects.messages.remove(&1)));
    assert_eq!(lost.unsound(), Unsound::Judged(Verdict::RejectsForgot(Forgot { last: 2, ..forgot })));
    assert!(Case::of(&[]).with(|case| case.world.outputs.messages.clear()).run().1.is_ok(), "it is not replaced");
}

#[test]
fn the_log_must_reach_the_position_and_its_message_is_read_where_that_is_left_open() {
    let log = |state, led_by| Case::of(&[]).with(|case| case.world.log = Some((state, leader(led_by))));
    let stamped_otherwise = LogState { last_time: 7, ..log_state(1, 50) };
    for (state, led_by, said) in [
        (log_state(1, 50), "a", &["log"][..]),
        (log_state(1, 60), "a", &["log"]),
        (log_state(1, 50), "b", &["log", "log 50"]),
        (stamped_otherwise, "a", &["log", "log 50"]),
    ] {
        let (found, Sound { leaders: led, .. }) = log(state, led_by).sound();
        assert_eq!(
            (&found[..], led.log),
            (&said.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..], Some(leader(led_by)))
        );
    }
    let rewritten = log(stamped_otherwise, "a").with(|case| {
        case.world.at_position = Some(MessageMark { position: 50, time: 7 });
    });
    let diverged = |last| Unsound::Judged(Verdict::LogDiverged { position: 50, last });
    assert_eq!(rewritten.unsound(), diverged(50));
    assert_eq!(log(log_state(1, 49), "a").unsound(), diverged(49));
    let anew = LogState { created: 2, ..log_state(1, 60) };
    assert_eq!(log(anew, "a").unsound(), Unsound::Judged(Verdict::LogReplaced { folded: 1, found: 2 }));
    let purged = log(log_state(60, 70), "b").with(|case| case.world.at_position = None);
    assert_eq!(purged.unsound(), Unsound::Judged(Verdict::LogTruncated { from: 51, to: 59 }));
}

#[test]
fn a_stream_that_is_gone_is_no_sound_one() {
    assert_eq!(
        Case::three().with(|case| case.world.outputs.exists = false).unsound(),
        Unsound::NoStream(Kind::Outputs)
    );
    let rejects = Case::of(&[]).rejects(&["r1"]).with(|case| case.world.rejects.exists = false);
    assert_eq!(rejects.unsound(), Unsound::NoStream(Kind::Rejects));
    assert_eq!(Case::three().with(|case| case.world.log = None).unsound(), Unsound::NoLog);
}

#[test]
fn a_connection_that_is_made_anew_has_everything_read_back_from_the_beginning() {
    // After so many replies: also when the last is there, and before the first was asked for.
    for after in 0..=3 {
        let mut case = Case::three();
        let mut inspection = case.inspection();
        let (mut replies, mut said, mut stale) = (0, Vec::new(), None);
        let end = loop {
            if inspection.connected(1 + u64::from(replies >= after)) {
                said.clear();
            }
            match inspection.next_step().expect("nothing is left unanswered") {
                Step::Ask(asked) => {
                    said.push(say(&asked));
                    let reply = case.world.reply(&asked.question);
                    replies += 1;
                    // What the look before has asked for says nothing any more, whenever it is answered.
                    if let Some((asked, reply)) = stale.replace((asked.clone(), reply.clone())) {
                        let Asked { look, .. } = asked;
                        inspection.replied(Asked { look: look - 1, ..asked }, reply);
                    }
                    inspection.replied(asked, reply);
                }
                Step::Doubted(kind, sign) => said.push(format!("{}: {sign}", said_of(kind))),
                Step::End(end) => break end,
            }
        };
        assert!(end.is_ok());
        assert_eq!((said[1].as_str(), said.len()), ("out: the connection was made anew", 8), "after {after}");
        assert_eq!(said[2..7], READ_BACK[1..], "after {after}");
    }
}

#[test]
fn what_is_unsound_stays_so_whatever_becomes_of_the_connection() {
    let mut case = Case::three().with(|case| case.world.log = None);
    let mut inspection = case.inspection();
    while let Some(Step::Ask(asked)) = inspection.next_step() {
        let reply = case.world.reply(&asked.question);
        let was_the_log = asked.question == Question::LogState;
        inspection.replied(asked, reply);
        if was_the_log {
            break;
        }
    }
    assert!(!inspection.connected(2));
    assert!(matches!(inspection.next_step(), Some(Step::End(Err(Unsound::NoLog)))));
    assert!(!inspection.connected(3) && inspection.next_step().is_none());
}

#[test]
fn no_more_than_a_window_is_read_back_at_once_in_whatever_order_it_is_answered() {
    let outputs: Vec<(u64, u64)> = (1..=600).map(|n| (n, 0)).collect();
    let mut case = Case::of(&outputs).with(|case| case.evidence.outputs.doubt(Sign::Unknown));
    let mut inspection = case.inspection();
    let (mut asking, mut most, mut replies) = (Vec::new(), 0, 0);
    let end = loop {
        match inspection.next_step() {
            Some(Step::Ask(asked)) => asking.push(asked),
            Some(Step::Doubted(..)) => {}
            Some(Step::End(end)) => break end,
            None => {
                most = most.max(asking.len());
                let asked = asking.swap_remove(replies * 7 % asking.len());
                replies += 1;
                let reply = case.world.reply(&asked.question);
                inspection.replied(asked, reply);
            }
        }
    };
    assert!(end.is_ok());
    assert_eq!((most, replies), (reading_back::WINDOW, 600 + 4));
}
