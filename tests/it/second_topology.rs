//! The topology of a second application, which has a name and a fact and no words of its own.

use crate::support::{Program, Server};
use async_nats::jetstream::stream;
use jetfold::nats::admin::{Admin, Allowed, Change};
use jetfold::nats::connect::{self, Connection};
use jetfold::nats::topology::{self, TopologyError};
use jetfold::values::Size;
use jetfold::{Application, Cx, Facts, Never, Slot, Undecodable};

const LONGEST: &str = "longest-word";

/// Counts words that are not too long, in the `FORMAT`th version of its records.
#[derive(Clone, Debug, PartialEq)]
struct WordCount<const FORMAT: u32> {
    longest: u32,
    stated: bool,
}

impl<const FORMAT: u32> Application for WordCount<FORMAT> {
    const NAME: &'static str = "word-count";
    const FORMAT: u32 = FORMAT;
    const OLDER_FORMATS: &'static [u32] = &[FORMAT - 1];

    type Key = String;
    type Row = u64;
    type Record<'a> = &'a str;
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
        std::str::from_utf8(payload).unwrap_or_default().lines().map(Ok)
    }

    fn key<'r>(&self, word: &'r &str) -> &'r str {
        word
    }

    fn fold(&self, count: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
        let before = count.get().copied().unwrap_or(0);
        count.set(before + 1);
        Ok(())
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![(LONGEST, self.longest.to_string())]
    }

    fn agreed(self, facts: &Facts) -> Result<Self, &'static str> {
        let longest = facts[LONGEST].parse().map_err(|_| LONGEST)?;
        Ok(Self { longest, ..self })
    }
}

/// What nobody has set, and what somebody has.
fn unstated<const FORMAT: u32>(longest: u32) -> WordCount<FORMAT> {
    WordCount { longest, stated: false }
}

fn stated(longest: u32) -> WordCount<1> {
    WordCount { longest, stated: true }
}

async fn connection(server: &Server) -> Connection {
    let config = connect::Config { servers: vec![server.url()], ..connect::Config::default() };
    connect::connect(&config, "word-count test").await.unwrap()
}

fn admin<'a, const FORMAT: u32>(
    connection: &'a Connection,
    application: WordCount<FORMAT>,
    prefix: &str,
) -> Admin<'a, WordCount<FORMAT>> {
    let stated = [Some("partitions"), application.stated.then_some(LONGEST)];
    let config = topology::Config {
        prefix: prefix.to_owned(),
        partitions: 2,
        log_max_bytes: Size(64 << 20),
        outputs_max_bytes: Size(64 << 20),
        stated: stated.into_iter().flatten().map(str::to_owned).collect(),
        ..topology::Config::default()
    };
    Admin::new(connection, config, application, "here".to_owned())
}

/// Changes one entry of a stream's metadata, as some tool might.
async fn edit(connection: &Connection, name: &str, key: &str, value: Option<&str>) {
    let stream = connection.jetstream.get_stream(name).await.unwrap();
    let mut config: stream::Config = stream.cached_info().config.clone();
    config.metadata.remove(key);
    config.metadata.extend(value.map(|value| (key.to_owned(), value.to_owned())));
    connection.jetstream.update_stream(config).await.unwrap();
}

fn said<T>(result: Result<T, TopologyError>) -> String {
    result.err().expect("a refusal").to_string()
}

#[tokio::test]
async fn it_is_made_under_its_own_names_and_every_process_agrees_on_its_facts() {
    let server = Server::start();
    let connection = connection(&server).await;
    let made = admin(&connection, unstated::<1>(24), "acme").apply(Allowed::default()).await.unwrap();
    let names = ["acme-log-0", "acme-log-1", "acme-out", "acme-rejects", "OBJ_acme-state", "KV_acme-members"];
    assert_eq!(made, names.map(|name| Change::Created(name.to_owned())));
    // Whoever has not said otherwise takes what the logs say, even to make them.
    let again = admin(&connection, unstated::<1>(99), "acme").apply(Allowed::default()).await.unwrap();
    assert_eq!(again, names.map(|name| Change::Unchanged(name.to_owned())));

    let log = connection.jetstream.get_stream("acme-log-1").await.unwrap().cached_info().config.clone();
    assert_eq!(log.subjects, ["acme.log.1.*", "acme.log.1"], "a producer's batches have subjects of their own");
    assert_eq!(log.description.as_deref(), Some("word-count: record batches of partition 1"));
    let mut facts: Vec<_> = log.metadata.into_iter().filter(|(key, _)| key.starts_with("word-count.")).collect();
    facts.sort();
    let expected = [("word-count.format", "1"), ("word-count.longest-word", "24"), ("word-count.partitions", "2")];
    assert_eq!(facts, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let outputs = connection.jetstream.get_stream("acme-out").await.unwrap().cached_info().config.clone();
    assert_eq!(outputs.description.as_deref(), Some("word-count: what is put out, once a subject"));

    for told in [unstated::<1>(99), stated(24)] {
        let topology = admin(&connection, told, "acme").check().await.unwrap();
        assert_eq!((topology.partitions, topology.once_only, topology.application.longest), (2, true, 24));
    }
}

#[tokio::test]
async fn a_fact_that_disagrees_or_is_gone_or_makes_no_sense_is_refused_in_one_sentence() {
    let server = Server::start();
    let connection = connection(&server).await;
    let admin = |application| admin(&connection, application, "");
    admin(stated(24)).apply(Allowed::default()).await.unwrap();

    let disagrees = "topology.longest_word is 30 here, but 24 in the log log-0: set it to 24, or use another topology.prefix; it can't be \
                     changed, because every result so far depends on it";
    assert_eq!(said(admin(stated(30)).check().await), disagrees);
    assert_eq!(said(admin(stated(30)).apply(Allowed { force: true, adopt: true }).await), disagrees);

    // One of the logs alone: whoever reads the first must not fold the second by another fact.
    edit(&connection, "log-1", "word-count.longest-word", Some("25")).await;
    let in_one = said(admin(unstated(24)).check().await);
    assert!(in_one.starts_with("topology.longest_word is 24 here, but 25 in the log log-1: "), "{in_one}");

    edit(&connection, "log-1", "word-count.longest-word", None).await;
    assert_eq!(
        said(admin(unstated(24)).check().await),
        "the stream log-1 lacks metadata of word-count (word-count.longest-word): where it is this system's, and a tool has \
         dropped that, `System::apply_with` puts it back; where it is somebody else's, name another topology.prefix"
    );
    let adopted = admin(unstated(99)).apply(Allowed { adopt: true, ..Allowed::default() }).await.unwrap();
    assert!(
        adopted.contains(&Change::Updated("log-1".into(), vec!["longest-word missing -> 24".into()])),
        "{adopted:?}"
    );
    admin(unstated(99)).check().await.unwrap();

    edit(&connection, "log-0", "word-count.longest-word", Some("many")).await;
    assert_eq!(
        said(admin(stated(24)).check().await),
        "the log log-0 says word-count.longest-word many, which this version does not know: use the version that made it"
    );
}

#[tokio::test]
async fn an_older_format_is_raised_only_by_whoever_applies_and_a_newer_one_is_refused() {
    let server = Server::start();
    let connection = connection(&server).await;
    admin(&connection, unstated::<1>(24), "").apply(Allowed::default()).await.unwrap();
    assert_eq!(
        said(admin(&connection, unstated::<2>(24), "").check().await),
        "the stream log-0 has format 1, and this version works with 2: stop every process of the older version, and run \
         `System::apply`, which raises it"
    );
    let newer = "the stream log-0 has format 1, which this version does not know: use the version that made it";
    assert_eq!(said(admin(&connection, unstated::<3>(24), "").apply(Allowed::default()).await), newer);
    let raised = admin(&connection, unstated::<2>(24), "").apply(Allowed::default()).await.unwrap();
    assert!(raised.contains(&Change::Updated("log-0".into(), vec!["format 1 -> 2".into()])), "{raised:?}");
    admin(&connection, unstated::<2>(24), "").check().await.unwrap();
    let older = said(admin(&connection, unstated::<1>(24), "").check().await);
    assert!(older.starts_with("the stream log-0 has format 2, which this version does not know"), "{older}");
}

#[tokio::test]
async fn two_applications_of_one_account_keep_out_of_each_other_s_streams() {
    let server = Server::start();
    crate::support::apply(&server, 2);
    let connection = connection(&server).await;
    let refused = said(admin(&connection, unstated::<1>(24), "").apply(Allowed::default()).await);
    let sentence = "the stream rejects lacks metadata of word-count (word-count.format): ";
    assert!(refused.starts_with(sentence) && refused.ends_with("name another topology.prefix"), "{refused}");
    assert!(connection.jetstream.get_stream("log-0").await.is_err(), "a refusal leaves everything as it was");
    admin(&connection, unstated::<1>(24), "words").apply(Allowed::default()).await.unwrap();
    let missing = said(admin(&connection, unstated::<1>(24), "other").check().await);
    assert_eq!(missing, "there is no stream other-log-0 at here: run `System::apply` first");
    Program::at(&server, "topology show").run().expect(0);
}

#[tokio::test]
async fn a_system_with_no_partition_or_more_than_there_can_be_is_refused_whoever_says_so() {
    let server = Server::start();
    let connection = connection(&server).await;
    for partitions in [0, 4097] {
        let config = topology::Config { partitions, ..topology::Config::default() };
        let admin = Admin::new(&connection, config, unstated::<1>(24), "here".to_owned());
        let refused = "topology.partitions is not valid: it must be from 1 to 4096";
        assert_eq!(said(admin.apply(Allowed::default()).await), refused);
        assert_eq!(said(admin.check().await), refused);
    }
    admin(&connection, unstated::<1>(24), "").apply(Allowed::default()).await.unwrap();
    for partitions in ["0", "4097", "4000000000", "-1"] {
        edit(&connection, "log-0", "word-count.partitions", Some(partitions)).await;
        assert_eq!(
            said(admin(&connection, unstated::<1>(24), "").check().await),
            format!(
                "the log log-0 says word-count.partitions {partitions}, which this version does not know: use the version that \
                 made it"
            )
        );
    }
}
