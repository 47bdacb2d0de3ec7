use crate::identity::*;

fn checkpoint(position: Position) -> Checkpoint {
    Checkpoint { position, message_time: position as i64 * 10, ..Checkpoint::start_of(1) }
}

fn reading(first: Position, last: Position) -> LogReading {
    LogReading { state: state(1, first, last), at_position: None, next: None }
}

/// Message n is stamped 10 n, and a log created at 1 is older than all of them.
fn state(created: UnixNanos, first: Position, last: Position) -> LogState {
    LogState { created, first, first_time: first as i64 * 10, last, last_time: last as i64 * 10 }
}

fn mark_at(position: Position, time: UnixNanos) -> Option<MessageMark> {
    Some(MessageMark { position, time })
}

#[test]
fn a_log_that_holds_what_was_folded_is_the_same() {
    let next = |expected, found| Some(NextMessage { expected, found });
    let held = LogReading { at_position: mark_at(5, 50), next: next(6, mark_at(6, 60)), ..reading(1, 9) };
    assert_eq!(judge(&checkpoint(5), &held), Ok(()));
    let at_its_end = LogReading { at_position: mark_at(5, 50), next: next(6, None), ..reading(5, 5) };
    assert_eq!(judge(&checkpoint(5), &at_its_end), Ok(()));
    assert_eq!(judge(&checkpoint(5), &reading(6, 5)), Ok(()), "purged through the position");
    assert!(!is_deleted(&checkpoint(5), &reading(6, 5)) && !is_deleted(&checkpoint(5), &held));
    for first in [0, 1] {
        assert_eq!(judge(&checkpoint(0), &reading(first, 0)), Ok(()), "empty");
    }
}

#[test]
fn each_way_a_log_can_differ_has_its_own_verdict() {
    let judge = |checkpoint: &Checkpoint, reading: LogReading| judge(checkpoint, &reading).unwrap_err();
    assert_eq!(judge(&checkpoint(5), reading(1, 4)), Verdict::LogDiverged { position: 5, last: 4 });
    for other in [mark_at(5, 51), mark_at(6, 50)] {
        let reading = LogReading { at_position: other, ..reading(1, 9) };
        assert_eq!(judge(&checkpoint(5), reading), Verdict::LogDiverged { position: 5, last: 9 });
    }
    assert_eq!(judge(&checkpoint(5), reading(8, 9)), Verdict::LogTruncated { from: 6, to: 7 });
    assert_eq!(judge(&checkpoint(0), reading(2, 9)), Verdict::LogTruncated { from: 1, to: 1 });
    let next = |expected, found| Some(NextMessage { expected, found });
    let hole = LogReading { at_position: mark_at(5, 50), next: next(6, mark_at(8, 80)), ..reading(1, 9) };
    assert_eq!(judge(&checkpoint(5), hole), Verdict::LogHole { from: 6, to: 7 });
    let further_on = LogReading { next: next(7, mark_at(9, 90)), ..hole };
    assert_eq!(judge(&checkpoint(5), further_on), Verdict::LogHole { from: 7, to: 8 });
    let to_the_end = LogReading { next: next(6, None), ..hole };
    assert_eq!(judge(&checkpoint(5), to_the_end), Verdict::LogHole { from: 6, to: 9 });
    let mut anew = reading(1, 9);
    (anew.state.created, anew.state.first_time) = (200, 201);
    assert_eq!(judge(&checkpoint(5), anew), Verdict::LogReplaced { folded: 1, found: 200 });
}

#[test]
fn a_message_that_was_deleted_after_it_was_folded_is_no_loss() {
    for (first, last) in [(1, 9), (1, 5), (5, 5)] {
        let deleted = reading(first, last);
        assert_eq!(judge(&checkpoint(5), &deleted), Ok(()), "{first} to {last}");
        assert!(is_deleted(&checkpoint(5), &deleted));
    }
    // What is not folded is another matter.
    let and_the_next = LogReading { next: Some(NextMessage { expected: 6, found: mark_at(7, 70) }), ..reading(1, 9) };
    assert_eq!(judge(&checkpoint(5), &and_the_next), Err(Verdict::LogHole { from: 6, to: 6 }));
}

#[test]
fn a_log_that_begins_right_behind_the_store_proves_nothing() {
    for (first, last, unproven) in [(1, 9, false), (5, 9, false), (6, 9, true), (6, 5, true)] {
        let reading = reading(first, last);
        assert_eq!(judge(&checkpoint(5), &reading), Ok(()), "{first} to {last}");
        assert_eq!(is_unproven(&checkpoint(5), &reading), unproven, "{first} to {last}");
    }
    assert!(!is_unproven(&checkpoint(0), &reading(1, 9)), "nothing is folded");
    assert!(!is_unproven(&Checkpoint { message_time: 0, ..checkpoint(5) }, &reading(6, 9)), "a loss was accepted");
}

#[test]
fn a_log_that_was_brought_back_from_a_backup_is_the_same_where_it_has_what_was_folded() {
    let back = |first, last, at_position| LogReading { state: state(200, first, last), at_position, next: None };
    let judge = |reading| judge(&checkpoint(5), &reading);
    assert_eq!(judge(back(1, 9, mark_at(5, 50))), Ok(()));
    assert_eq!(judge(back(5, 5, mark_at(5, 50))), Ok(()));
    // From an older one, and what has come in the meantime.
    assert_eq!(judge(back(1, 4, None)), Err(Verdict::LogDiverged { position: 5, last: 4 }));
    assert_eq!(judge(back(1, 9, mark_at(5, 210))), Err(Verdict::LogDiverged { position: 5, last: 9 }));
    // What is not there shows nothing.
    let replaced = Verdict::LogReplaced { folded: 1, found: 200 };
    for unknown in [back(1, 9, None), back(6, 9, None), back(6, 5, None), back(0, 0, None)] {
        assert_eq!(judge(unknown), Err(replaced));
    }
    let never = Checkpoint { message_time: 0, ..checkpoint(5) };
    assert_eq!(super::judge(&never, &back(1, 9, mark_at(5, 50))), Err(Verdict::LogDiverged { position: 5, last: 9 }));
}

#[test]
fn the_log_s_clock_stands_still_while_what_was_folded_comes_again() {
    let folded = Checkpoint { position: 3, log_time: 77, message_time: 30, ..Checkpoint::start_of(1) };
    let mut at = Verdict::LogDiverged { position: 3, last: 9 }.accepted(&folded, &state(1, 1, 9));
    assert_eq!((at.position, at.refolds_through), (0, 3));
    for (stamp, log_time) in [(10, 77), (20, 77), (30, 77), (40, 87)] {
        at.step(stamp, 800);
        assert_eq!(at.log_time, log_time, "{stamp}");
    }
    let replaced = Verdict::LogReplaced { folded: 1, found: 200 }.accepted(&folded, &state(200, 1, 9));
    assert_eq!((replaced.refolds_through, replaced.log_born), (0, 200), "nothing of it comes again");
}

#[test]
fn a_commit_waits_for_a_log_that_reaches_its_position() {
    let state = |created, last, last_time| LogState { last_time, ..state(created, 1, last) };
    assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 5, 50)), Ok(true));
    assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 7, 1)), Ok(true));
    assert_eq!(judge_before_commit(&checkpoint(5), &state(1, 5, 51)), Ok(false), "rewritten, or deleted");
    assert!(judge_before_commit(&checkpoint(5), &state(1, 4, 40)).is_err());
    assert!(judge_before_commit(&checkpoint(5), &state(2, 5, 50)).is_err());
}

#[test]
fn a_stream_of_effects_forgets_by_sequence_and_timestamp_and_never_by_age() {
    let mark = Mark { created: 1, sequence: 7, time: 70 };
    let reading = |created, first, last, at_mark| MarkReading { state: state(created, first, last), at_mark };
    for kept in [
        reading(1, 1, 7, mark_at(7, 70)),
        reading(1, 3, 99, mark_at(7, 70)),
        reading(1, 8, 9, None),
        reading(1, 8, 7, None),
        // Brought back from a backup: with it, and after it has aged out.
        reading(200, 1, 9, mark_at(7, 70)),
        reading(200, 8, 9, None),
    ] {
        assert_eq!(judge_mark(&mark, &kept), Ok(()), "{kept:?}");
    }
    for (forgotten, made_anew) in [
        (reading(1, 1, 6, None), false),
        (reading(1, 1, 9, mark_at(7, 71)), false),
        (reading(1, 1, 9, None), false),
        (reading(200, 1, 6, None), false),
        (reading(2, 1, 9, mark_at(7, 71)), true),
        (reading(2, 8, 9, None), true),
        (reading(200, 8, 7, None), true),
    ] {
        let last = forgotten.state.last;
        let forgot = Forgot { recorded: 7, recorded_at: 70, last, made_anew };
        assert_eq!(judge_mark(&mark, &forgotten), Err(forgot), "{forgotten:?}");
    }
}

#[test]
fn what_is_accepted_goes_on_where_nothing_more_is_lost_than_has_to_be() {
    let state = |first| LogState { first_time: 999, ..state(9, first, 99) };
    let before = checkpoint(20);
    for (verdict, first, position) in [
        (Verdict::LogReplaced { folded: 1, found: 9 }, 1, 0),
        (Verdict::LogDiverged { position: 20, last: 10 }, 0, 0),
        (Verdict::LogDiverged { position: 20, last: 30 }, 5, 4),
        (Verdict::LogTruncated { from: 21, to: 40 }, 41, 40),
        (Verdict::LogHole { from: 21, to: 25 }, 1, 25),
    ] {
        let after = verdict.accepted(&before, &state(first));
        assert_eq!((after.position, after.log_created, after.message_time), (position, 9, 0));
        // And there the log is what it has to be, with nobody at the position.
        let reading = LogReading { state: state(first), at_position: None, next: None };
        assert_eq!(judge(&after, &reading), Ok(()), "{verdict:?}");
    }
}
