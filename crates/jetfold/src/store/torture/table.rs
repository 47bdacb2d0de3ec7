//! What has become of stores, counted.

use crate::store::torture::ordeal::End;
use std::fmt;

pub struct Table(Vec<Line>);

#[derive(Default)]
struct Line {
    name: &'static str,
    tried: u64,
    whole: u64,
    earlier: u64,
    damaged: u64,
    refused: u64,
    mixed: u64,
}

impl Table {
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Self {
        Self(names.into_iter().map(|name| Line { name, ..Line::default() }).collect())
    }

    pub fn count(&mut self, name: &str, end: End) {
        let line = self.0.iter_mut().find(|line| line.name == name).expect("each has a line");
        line.tried += 1;
        match end {
            End::Untroubled => {}
            End::Whole => line.whole += 1,
            End::Earlier => line.earlier += 1,
            End::Damaged => line.damaged += 1,
            End::Refused => line.refused += 1,
            End::Mixed => line.mixed += 1,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["tried", "struck", "whole", "earlier", "damaged", "refused", "mixed"];
        write!(f, "{:<40}", "trouble")?;
        head.iter().try_for_each(|word| write!(f, "{word:>9}"))?;
        for line in &self.0 {
            let ends = [line.whole, line.earlier, line.damaged, line.refused, line.mixed];
            write!(f, "\n{:<40}{:>9}{:>9}", line.name, line.tried, ends.iter().sum::<u64>())?;
            ends.iter().try_for_each(|n| write!(f, "{n:>9}"))?;
        }
        Ok(())
    }
}
