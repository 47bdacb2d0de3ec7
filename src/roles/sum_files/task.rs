//! What `sum` is asked to do.

use crate::roles::sum_files::checksum_line::Style;

/// What is to be done with the files that are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Print their checksums.
    Print(Style),
    /// Compare the checksums that they list.
    Check(Checking),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checking {
    pub ignore_missing: bool,
    /// A line that is no checksum is a failure.
    pub strict: bool,
    pub told: Told,
}

/// How much is told of what was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Told {
    #[default]
    All,
    /// Also each line that is no checksum.
    Misformatted,
    /// Nothing of what is as it should be.
    Failures,
    /// The exit code alone, and why files and lists could not be read.
    Nothing,
}
