//! Partitions that nobody folds, which is why finals stay out.

use jetfold::WorkerStanding;
use std::collections::BTreeSet;

/// Partitions that a sentence names at the most.
const MOST_NAMED: usize = 8;

/// Says who does not fold the `partitions` that finals are awaited from, by what all workers that are there have `told`;
/// `None` where each is folded.
pub fn explain(partitions: &BTreeSet<u32>, told: &[WorkerStanding]) -> Option<String> {
    let standings = || {
        let places = told.iter().flat_map(|worker| worker.partitions.iter().map(move |place| (worker, place)));
        // Who follows publishes nothing.
        places.filter(|(_, place)| !place.follows)
    };
    let is_taken = |partition: &u32| standings().any(|(_, place)| place.partition == *partition);
    let nobody_s: Vec<u32> = partitions.iter().copied().filter(|partition| !is_taken(partition)).collect();
    if !nobody_s.is_empty() {
        return Some(format!("{} folded by nobody: start a summer", named(&nobody_s)));
    }
    let folds =
        |partition: &u32| standings().any(|(_, place)| place.partition == *partition && place.trouble.is_none());
    let waiting = partitions.iter().find(|partition| !folds(partition))?;
    let (worker, place) = standings().find(|(_, place)| place.partition == *waiting)?;
    let trouble = place.trouble.as_deref()?;
    Some(format!("partition {waiting} is not folded, since worker {} waits: {trouble}", worker.worker))
}

/// The partitions, and the verb that goes with them.
fn named(partitions: &[u32]) -> String {
    let numbers = |partitions: &[u32]| partitions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    match partitions {
        [only] => format!("partition {only} is"),
        [first @ .., last] if first.len() <= MOST_NAMED => format!("partitions {} and {last} are", numbers(first)),
        many => {
            let (shown, others) = many.split_at(MOST_NAMED.min(many.len()));
            format!("partitions {} and {} more are", numbers(shown), others.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetfold::PartitionStanding;

    fn worker(name: &str, partitions: &[(u32, Option<&str>)]) -> WorkerStanding {
        let partitions = partitions.iter().map(|(partition, trouble)| PartitionStanding {
            partition: *partition,
            trouble: trouble.map(str::to_owned),
            ..PartitionStanding::default()
        });
        WorkerStanding { worker: name.to_owned(), partitions: partitions.collect(), ..WorkerStanding::default() }
    }

    #[test]
    fn partitions_that_nobody_folds_come_first_and_those_that_wait_second() {
        let a = worker("a", &[(0, None), (1, Some("no answer"))]);
        let b = worker("b", &[(1, None), (2, Some("refused since noon"))]);
        for (partitions, told, expected) in [
            (&[0, 1][..], vec![&a, &b], None),
            (&[], vec![], None),
            (&[3], vec![&a, &b], Some("partition 3 is folded by nobody: start a summer")),
            (&[2, 3], vec![&a, &b], Some("partition 3 is folded by nobody: start a summer")),
            (&[0, 1], vec![], Some("partitions 0 and 1 are folded by nobody: start a summer")),
            (&[0, 1], vec![&a], Some("partition 1 is not folded, since worker a waits: no answer")),
            (&[0, 2], vec![&a, &b], Some("partition 2 is not folded, since worker b waits: refused since noon")),
        ] {
            let told: Vec<_> = told.into_iter().cloned().collect();
            let partitions = partitions.iter().copied().collect();
            assert_eq!(explain(&partitions, &told).as_deref(), expected, "{partitions:?}");
        }
    }

    #[test]
    fn a_sentence_names_a_few_partitions_and_counts_the_rest() {
        for (partitions, expected) in [
            (vec![5], "partition 5 is"),
            (vec![0, 1, 2], "partitions 0, 1 and 2 are"),
            ((0..9).collect(), "partitions 0, 1, 2, 3, 4, 5, 6, 7 and 8 are"),
            ((0..10).collect(), "partitions 0, 1, 2, 3, 4, 5, 6, 7 and 2 more are"),
        ] {
            assert_eq!(named(&partitions), expected);
        }
    }
}
