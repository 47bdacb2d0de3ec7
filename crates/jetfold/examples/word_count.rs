//! Counts words, each once, whatever dies. `apply` makes the JetStream objects, `count` is a worker (start any number), `say` takes
//! text from standard input, and `ask WORD` prints a count.
//!
//! Which NATS server that is, how many partitions and so on, is told by the [environment](Config::from_env).

use jetfold::{Application, Config, Cx, Error, Never, Slot, System, Undecodable, View, signals};

#[derive(Clone)]
struct WordCount;

impl Application for WordCount {
    const NAME: &'static str = "word-count";

    type Key = String;
    type Row = u64;
    type Record<'a> = &'a str;
    type Output = Never;
    type Reason = Never;
    type Tally = ();

    /// A message is a list of words, one a line.
    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<&'a str, Undecodable>> {
        let (text, wrong) = match std::str::from_utf8(payload) {
            Ok(text) => (text, None),
            Err(_) => ("", Some(Err(Undecodable { index: 0, what: "not UTF-8" }))),
        };
        text.lines().map(Ok).chain(wrong)
    }

    fn key<'r>(&self, word: &'r &str) -> &'r str {
        word
    }

    fn fold(&self, count: Slot<'_, u64>, _: &&str, _: &mut Cx<'_, Self>) -> Result<(), Never> {
        let before = count.get().copied().unwrap_or(0);
        count.set(before + 1);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let system = System::new(WordCount, Config::from_env()?);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["apply"] => drop(system.apply().await?),
        ["count"] => {
            let answer = |view: &View<WordCount>, word: &[u8]| {
                let count = view.get(&String::from_utf8_lossy(word))?.unwrap_or(0);
                Ok(count.to_string().into_bytes())
            };
            system.worker().answering(answer).run(signals()?).await?;
        }
        // With a name, and the number of each line as its offset: killed and given the same text again, it goes on where it was.
        ["say", name] => {
            let mut publisher = system.publisher_named(name).await?;
            for (line, number) in std::io::stdin().lines().zip(1..) {
                for word in line?.split_whitespace() {
                    publisher.push_at(number, word, |batch| batch.extend([word.as_bytes(), b"\n"].concat())).await?;
                }
            }
            publisher.finish().await?;
        }
        ["ask", word] => println!("{}", String::from_utf8_lossy(&system.ask(word, word.to_owned()).await?)),
        _ => eprintln!("word_count apply | count | say NAME | ask WORD"),
    }
    Ok(())
}
