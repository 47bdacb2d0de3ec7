//! How streams end, case by case, with time handed in.

use crate::run::ledger::*;
use crate::sum::chunk::SeqNo;
use crate::sum::running::Value;
use crate::sum::stream_id::RunPrefix;

const RUN: RunPrefix = RunPrefix([1, 2, 3, 4]);
const DEADLINE: Duration = Duration::from_secs(40);
const BATCH: BatchPlace = BatchPlace { partition: 1, position: 7 };

fn id(n: u64) -> StreamId {
    StreamId::of_run(RUN, n)
}

fn sum(n: u64) -> Sum {
    Sum { id: id(n), seq_no: SeqNo::new(4).unwrap(), value: Value([n as u8; 20]) }
}

fn s(seconds: f64) -> Moment {
    Duration::from_secs_f64(seconds)
}

/// As the server stamps it, whose clock runs as ours does.
fn stamp(seconds: f64) -> UnixNanos {
    1_000_000_000_000_000_000 + (seconds * 1e9) as i64
}

/// The right final of stream `n`, at the place `n` + 1 of `sums`.
fn stored(n: u64, at: f64) -> Final {
    Final { sum: Some(sum(n)), mark: MessageMark { position: n + 1, time: stamp(at) } }
}

/// A ledger with streams 0 to `n` - 1 opened and closed, and sent at 1 s.
fn closed(n: u64) -> Ledger {
    let mut ledger = Ledger::new(Unopened::new(RUN, 1, u64::MAX), DEADLINE);
    for n in 0..n {
        ledger.open(id(n));
        ledger.close(sum(n), s(0.5));
        ledger.sent(&[id(n)], s(1.0));
    }
    ledger
}

/// Observed every half second in a stretch of time; where `heard` is given, nothing is after that.
fn observe(ledger: &mut Ledger, from: f64, until: f64, heard: Option<f64>) {
    let mut now = from;
    while now <= until {
        let heard = heard.map_or(now, |heard| heard.min(now));
        ledger.observe(s(now), Contact { stands: true, heard: s(heard) });
        now += 0.5;
    }
}

#[test]
fn the_right_final_in_time_is_verified_before_its_ack_too() {
    let mut ledger = closed(2);
    assert_eq!(ledger.arrived(Some(id(0)), stored(0, 1.4), s(1.5)), Seen::Ended(id(0), Ending::Verified));
    ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
    assert_eq!(ledger.arrived(Some(id(1)), stored(1, 40.9), s(41.0)), Seen::Ended(id(1), Ending::Verified));
    let report = ledger.report(s(43.0));
    assert_eq!(report.counts, Counts { streams: 2, verified: 2, ..Counts::default() });
    assert!(!report.counts.is_broken());
}

#[test]
fn latency_counts_from_the_scheduled_send() {
    let mut ledger = closed(1);
    ledger.arrived(Some(id(0)), stored(0, 1.4), s(1.5));
    let latency = ledger.report(s(2.0)).latency_ms;
    assert!((latency.max - 1000.0).abs() < 2.0 && (latency.p50 - 1000.0).abs() < 2.0, "{latency:?}");
}

#[test]
fn whether_a_final_is_late_is_judged_by_the_servers_two_timestamps() {
    // Sent at 1, acked at 2, delivered at 50. When closing chunk and final were stored, and what that makes.
    for (closing, final_stored, ending) in [
        (Some(1.5), 2.0, Ending::Verified),
        (Some(1.5), 41.5, Ending::Verified),
        (Some(1.5), 41.6, Ending::Late),
        (Some(1.5), 49.9, Ending::Late),
        // The batch was stored twice, and the first copy was answered.
        (Some(9.0), 8.0, Ending::Verified),
        // It is purged: our own clock remains.
        (None, 2.0, Ending::Late),
    ] {
        let mut ledger = closed(1);
        ledger.acked(&[id(0)], BATCH, s(2.0));
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, final_stored), s(50.0)), Seen::Doubtful(Some(BATCH)));
        assert!(!ledger.is_settled() && !ledger.is_awaited(id(0)) && ledger.longest_wait(s(50.0)).is_none());
        assert_eq!(ledger.tick(s(500.0)).overdue, []);
        assert_eq!(ledger.judged(BATCH, closing.map(stamp)), [(sum(0), ending)], "{closing:?} {final_stored}");
        assert!(ledger.is_settled());
        assert_eq!(ledger.counts().is_broken(), ending == Ending::Late);
    }
}

#[test]
fn streams_that_one_batch_closes_are_judged_by_one_question() {
    let mut ledger = closed(3);
    ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
    let other = BatchPlace { position: 8, ..BATCH };
    ledger.acked(&[id(2)], other, s(2.0));
    assert_eq!(ledger.arrived(Some(id(0)), stored(0, 3.0), s(60.0)), Seen::Doubtful(Some(BATCH)));
    assert_eq!(ledger.arrived(Some(id(1)), stored(1, 55.0), s(60.0)), Seen::Doubtful(None));
    assert_eq!(ledger.arrived(Some(id(2)), stored(2, 3.0), s(60.0)), Seen::Doubtful(Some(other)));
    assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), [(sum(0), Ending::Verified), (sum(1), Ending::Late)]);
    assert_eq!(ledger.judged(other, Some(stamp(1.5))), [(sum(2), Ending::Verified)]);
}

#[test]
fn a_second_final_of_a_stream_in_doubt_is_a_duplicate_once() {
    let mut ledger = closed(1);
    ledger.acked(&[id(0)], BATCH, s(2.0));
    ledger.arrived(Some(id(0)), stored(0, 3.0), s(60.0));
    assert_eq!(ledger.arrived(Some(id(0)), stored(7, 3.0), s(60.0)), Seen::Again(id(0)));
    assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), Some(Ending::Duplicate));
    assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), []);
    assert_eq!(ledger.report(s(61.0)).counts, Counts { streams: 1, duplicate: 1, ..Counts::default() });
}

#[test]
fn without_an_ack_the_time_since_the_last_send_decides() {
    for (at, ending) in [(70.0, Ending::Verified), (70.1, Ending::Late)] {
        let mut ledger = closed(1);
        ledger.sent(&[id(0)], s(30.0));
        assert!(ledger.tick(s(80.0)).overdue.is_empty());
        assert_eq!(ledger.arrived(Some(id(0)), stored(0, at), s(at)), Seen::Ended(id(0), ending));
    }
}

#[test]
fn time_in_which_nats_is_away_is_no_delay() {
    let mut ledger = closed(3);
    ledger.acked(&[id(0), id(1), id(2)], BATCH, s(2.0));
    observe(&mut ledger, 0.0, 10.0, None);
    observe(&mut ledger, 10.5, 200.0, Some(10.0));
    assert_eq!(ledger.tick(s(200.0)).overdue, []);
    assert_eq!(ledger.longest_wait(s(200.0)), Some((id(0), s(8.0))));
    observe(&mut ledger, 200.5, 201.0, None);
    // Whatever the server's timestamps say, who was away as well.
    assert_eq!(ledger.arrived(Some(id(0)), stored(0, 201.0), s(201.0)), Seen::Ended(id(0), Ending::Verified));
    observe(&mut ledger, 201.5, 231.0, None);
    assert_eq!(ledger.arrived(Some(id(1)), stored(1, 231.0), s(231.0)), Seen::Ended(id(1), Ending::Verified));
    observe(&mut ledger, 231.5, 272.5, None);
    assert_eq!(ledger.tick(s(272.0)).overdue, []);
    assert_eq!(ledger.tick(s(272.5)).overdue, [id(2)]);
    assert_eq!(ledger.report(s(272.5)).away_s, 190.5);
}

#[test]
fn a_pause_of_the_run_is_no_delay_either_but_hides_nothing_that_is_late() {
    let mut ledger = closed(3);
    ledger.acked(&[id(0), id(1)], BATCH, s(2.0));
    observe(&mut ledger, 0.0, 10.0, None);
    observe(&mut ledger, 200.0, 201.0, None);
    assert_eq!(ledger.tick(s(201.0)).overdue, []);
    assert_eq!(ledger.longest_wait(s(201.0)), Some((id(2), s(10.0))));
    ledger.arrived(Some(id(0)), stored(0, 11.0), s(201.0));
    ledger.arrived(Some(id(1)), stored(1, 199.0), s(201.0));
    assert_eq!(ledger.judged(BATCH, Some(stamp(2.0))), [(sum(0), Ending::Verified), (sum(1), Ending::Late)]);
    // Where nobody knows when its closing chunk was stored, a pause of ours is not held against it.
    assert_eq!(ledger.arrived(Some(id(2)), stored(2, 199.0), s(201.0)), Seen::Ended(id(2), Ending::Verified));
    assert_eq!(ledger.report(s(201.0)).away_s, 190.0);
}

#[test]
fn nothing_within_twice_the_deadline_is_missing_if_the_leader_says_so() {
    let mut ledger = closed(4);
    observe(&mut ledger, 0.0, 81.0, None);
    assert!(ledger.tick(s(80.9)).overdue.is_empty());
    let mut overdue = ledger.tick(s(81.0)).overdue;
    overdue.sort();
    assert_eq!(overdue, [id(0), id(1), id(2), id(3)]);
    assert_eq!(ledger.tick(s(82.0)).overdue, [], "each is asked about once");
    let ended = |n, ending| Some(Seen::Ended(id(n), ending));
    assert_eq!(ledger.overdue_answered(id(0), None, s(82.0)), ended(0, Ending::Missing));
    assert_eq!(ledger.overdue_answered(id(1), Some(stored(1, 60.0)), s(82.0)), ended(1, Ending::Late));
    ledger.arrived(Some(id(2)), stored(2, 82.0), s(82.0));
    assert_eq!(ledger.overdue_answered(id(2), Some(stored(2, 82.0)), s(82.0)), None, "it came while we asked");
    ledger.sent(&[id(3)], s(81.5));
    assert_eq!(ledger.overdue_answered(id(3), None, s(82.0)), None, "it was sent again while we asked");
    assert_eq!((ledger.counts().missing, ledger.counts().late), (1, 2));
    observe(&mut ledger, 81.5, 162.0, None);
    assert_eq!(ledger.tick(s(162.0)).overdue, [id(3)]);
}

#[test]
fn a_stream_is_not_missing_if_the_run_was_away_when_it_asked() {
    let mut ledger = closed(1);
    ledger.acked(&[id(0)], BATCH, s(1.0));
    observe(&mut ledger, 0.0, 80.0, None);
    // The connection hangs; the question is sent before that is known, and answered after it.
    assert_eq!(ledger.tick(s(81.0)).overdue, [id(0)]);
    observe(&mut ledger, 80.5, 100.0, Some(80.0));
    observe(&mut ledger, 100.5, 101.0, None);
    assert_eq!(ledger.overdue_answered(id(0), None, s(101.0)), None);
    observe(&mut ledger, 101.5, 103.0, None);
    assert_eq!(ledger.tick(s(103.0)).overdue, [id(0)]);
    assert_eq!(
        ledger.overdue_answered(id(0), None, s(103.0)),
        Some(Seen::Ended(id(0), Ending::Missing)),
        "it was there to see it"
    );
}

#[test]
fn a_final_that_the_leader_has_shown_is_no_second_one_when_it_is_delivered() {
    let mut ledger = closed(4);
    ledger.acked(&[id(1), id(2)], BATCH, s(1.0));
    assert_eq!(ledger.tick(s(81.0)).overdue.len(), 4);
    assert_eq!(ledger.arrived(Some(id(0)), stored(0, 2.0), s(81.0)), Seen::Ended(id(0), Ending::Late));
    let doubtful = Seen::Doubtful(Some(BATCH));
    assert_eq!(ledger.overdue_answered(id(2), Some(stored(2, 2.0)), s(82.0)), Some(doubtful));
    assert_eq!(ledger.judged(BATCH, Some(stamp(1.5))), [(sum(2), Ending::Verified)]);
    assert_eq!(ledger.arrived(Some(id(1)), stored(1, 2.0), s(83.0)), doubtful);
    assert_eq!(ledger.arrived(Some(id(2)), stored(2, 2.0), s(83.0)), Seen::Known);
    // What has the same place and another time, or comes at another place, is another message.
    assert_eq!(ledger.arrived(Some(id(2)), stored(2, 2.1), s(83.0)), Seen::Again(id(2)));
    assert!(ledger.overdue_answered(id(3), Some(stored(3, 2.0)), s(84.0)).is_some());
    let elsewhere = Final { mark: MessageMark { position: 9, time: stamp(2.0) }, ..stored(3, 2.0) };
    assert_eq!(ledger.arrived(Some(id(3)), elsewhere, s(84.0)), Seen::Again(id(3)));
    assert_eq!(ledger.arrived(Some(id(3)), stored(3, 2.0), s(84.0)), Seen::Again(id(3)), "remembered until passed");
}

#[test]
fn a_wrong_value_a_wrong_end_and_no_final_at_all_are_mismatched() {
    let mut ledger = closed(3);
    let says = |n, sum| Final { sum, ..stored(n, 2.0) };
    ledger.arrived(Some(id(0)), says(0, Some(Sum { value: Value([9; 20]), ..sum(0) })), s(2.0));
    ledger.arrived(Some(id(1)), says(1, Some(Sum { seq_no: SeqNo::FIRST, ..sum(1) })), s(2.0));
    ledger.arrived(Some(id(2)), says(2, None), s(2.0));
    ledger.open(id(3));
    ledger.arrived(Some(id(3)), stored(3, 2.0), s(2.0));
    ledger.close(sum(3), s(3.0));
    assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 4, mismatched: 4, ..Counts::default() });
}

#[test]
fn a_second_message_is_a_duplicate_only_if_the_leader_has_both() {
    let mut ledger = closed(2);
    for n in 0..2 {
        ledger.arrived(Some(id(n)), stored(n, 2.0), s(2.0));
        assert_eq!(ledger.arrived(Some(id(n)), stored(n, 3.0), s(3.0)), Seen::Again(id(n)));
    }
    assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), Some(Ending::Duplicate));
    assert_eq!(ledger.came_again(id(0), Copies::Several, Some(sum(0))), None, "a stream ends once");
    assert_eq!(ledger.came_again(id(1), Copies::One(Some(sum(1))), Some(sum(1))), None);
    let counts = ledger.report(s(4.0)).counts;
    assert_eq!(counts, Counts { streams: 2, verified: 1, duplicate: 1, republished: 1, ..Counts::default() });
}

#[test]
fn a_final_published_again_with_another_value_is_mismatched() {
    let mut ledger = closed(1);
    ledger.arrived(Some(id(0)), stored(0, 2.0), s(2.0));
    assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(7))), Some(sum(0))), Some(Ending::Mismatched));
    assert_eq!(ledger.report(s(3.0)).counts, Counts { streams: 1, mismatched: 1, ..Counts::default() });
}

#[test]
fn what_comes_again_after_a_bad_end_changes_nothing() {
    let mut ledger = closed(2);
    observe(&mut ledger, 0.0, 82.0, None);
    ledger.tick(s(82.0));
    ledger.overdue_answered(id(0), None, s(82.0));
    assert_eq!(ledger.came_again(id(0), Copies::One(Some(sum(0))), Some(sum(0))), None);
    ledger.arrived(Some(id(1)), stored(1, 2.0), s(2.0));
    assert_eq!(ledger.came_again(id(1), Copies::None, Some(sum(1))), None);
    assert_eq!((ledger.counts().missing, ledger.counts().republished), (1, 0));
    assert_eq!(ledger.came_again(id(1), Copies::One(None), Some(sum(1))), Some(Ending::Mismatched));
}

#[test]
fn a_final_that_nobody_opened_is_unexpected() {
    let mut ledger = closed(1);
    assert_eq!(ledger.arrived(Some(id(1)), stored(1, 2.0), s(2.0)), Seen::Unexpected);
    assert_eq!(ledger.arrived(Some(StreamId::new([9; 16])), stored(2, 2.0), s(2.0)), Seen::Unexpected);
    assert_eq!(ledger.arrived(None, stored(3, 2.0), s(2.0)), Seen::Unexpected);
    assert_eq!(ledger.counts().unexpected, 3);
}

#[test]
fn what_is_open_at_an_interrupt_is_unfinished_and_breaks_nothing() {
    let mut ledger = closed(2);
    ledger.open(id(2));
    ledger.open(id(3));
    ledger.give_up(id(3));
    let counts = ledger.report(s(2.0)).counts;
    assert_eq!(counts, Counts { streams: 4, unfinished: 4, ..Counts::default() });
    assert!(!counts.is_broken());
}
