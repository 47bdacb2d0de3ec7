//! `Words`: what things are called, to people and to JetStream.

/// What the machine calls things in one application. All of it is static: a sentence is read aloud once, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// JetStream streams and subjects, under the prefix of a system: `<logs>-<partition>` and `<logs>.<partition>`, ...
    pub logs: &'static str,
    /// ... `<outputs>` and `<outputs>.>`, ...
    pub outputs: &'static str,
    /// ... `<rejects>` and `<rejects>.>`, ...
    pub rejects: &'static str,
    /// ... the object store of snapshots, ...
    pub state: &'static str,
    /// ... and the key-value bucket of presence.
    pub members: &'static str,
    /// A worker: its durable consumers are `<worker>-<name>`, and it answers on `<worker>s.standing`.
    pub worker: &'static str,
    /// A record, and several.
    pub record: &'static str,
    pub records: &'static str,
    /// What rows are kept of: one, and several.
    pub key: &'static str,
    pub keys: &'static str,
    /// What is put out: one, and several.
    pub output: &'static str,
    pub output_plural: &'static str,
    /// The names of two findings: an output that contradicts one already published, and outputs that their stream has lost.
    pub conflict: &'static str,
    pub outputs_forgot: &'static str,
    /// What the fold has computed, as in `every result so far depends on it`.
    pub result: &'static str,
    /// What the stream of outputs holds.
    pub outputs_described: &'static str,
    /// How the JetStream objects are made, how metadata that a tool has dropped is put back, and how a change is made that loses
    /// something.
    pub apply: &'static str,
    pub adopt: &'static str,
    pub force: &'static str,
    /// What sets the most bytes of a record, and of the stream of outputs.
    pub largest_record: &'static str,
    pub outputs_max_bytes: &'static str,
    /// What the operator has to set to change what violations do, and to tell workers apart.
    pub on_violation: &'static str,
    pub worker_name: &'static str,
    pub data_dir: &'static str,
    pub batch_bytes: &'static str,
    pub partitions: &'static str,
    /// What a worker says when it begins.
    pub folding: &'static str,
    /// How a worker is started that accepts a loss, before the loss and its partition; and how those are told that run.
    pub accept: &'static str,
    pub accept_while_running: &'static str,
    /// What keys have done whose rows [were put out](crate::application::Application::was_put_out), as in `keys that completed
    /// yesterday`.
    pub has_put_out: &'static str,
    /// What is said if records prove that something was lost, and where to look for what an accepted loss leaves behind.
    pub lost: &'static str,
    pub after_a_loss: &'static str,
    /// What is accepted with messages that are gone.
    pub lost_messages: &'static str,
}

impl Words {
    /// For an application that has no words of its own.
    pub const DEFAULT: Self = Self {
        logs: "log",
        outputs: "out",
        rejects: "rejects",
        state: "state",
        members: "members",
        worker: "worker",
        record: "record",
        records: "records",
        key: "key",
        keys: "keys",
        output: "output",
        output_plural: "outputs",
        conflict: "ConflictingOutput",
        outputs_forgot: "OutputsForgot",
        result: "result",
        outputs_described: "what is put out, once a subject",
        apply: "System::apply",
        adopt: "System::apply_with",
        force: "Allowed::force",
        largest_record: "Application::largest_record",
        outputs_max_bytes: "topology.outputs_max_bytes",
        on_violation: "on_violation",
        worker_name: "worker",
        data_dir: "data_dir",
        batch_bytes: "what is pushed at one offset",
        partitions: "worker.partitions",
        folding: "folding",
        accept: "accept",
        accept_while_running: "System::accept",
        has_put_out: "put something out",
        lost: "something was lost",
        lost_messages: "that they are lost",
        after_a_loss: "what nobody had folded is missing from the rows of its keys",
    };
}
