//! Keeps balances: each movement of an account is posted once, in order, with the balance after it, and an overdraft is a reject.
//!
//! `apply` makes the JetStream objects, `keep` is a worker, `post NAME` takes movements from standard input, one a line, as
//! `ACCOUNT AMOUNT`, and `ask ACCOUNT` prints a balance. What is posted is in the stream `accounts-out`.

use jetfold::{Application, Config, Cx, Error, Output, Packed, Place, Slot, System, Undecodable, View, signals};
use serde::{Deserialize, Serialize};

#[derive(Clone)]
struct Accounts;

/// What is known of one account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Account {
    balance: i64,
    movements: u64,
}

/// One movement of an account: a credit, or below 0 a debit.
struct Movement<'a> {
    account: &'a str,
    amount: i64,
}

/// A movement that counts. An account has many, so it is not named by the account alone, but by its place in the log.
#[derive(Clone, Debug, PartialEq)]
struct Posted {
    place: Place,
    account: String,
    amount: i64,
    balance: i64,
}

impl Output for Posted {
    fn subject(&self, subject: &mut String) {
        subject.push_str(&self.place.to_string());
    }

    fn encode(&self, payload: &mut Vec<u8>) {
        payload.extend(format!("{} {:+} {}", self.account, self.amount, self.balance).into_bytes());
    }
}

#[derive(Clone, Copy)]
enum Refused {
    Overdrawn,
    /// More than can be counted.
    Overflow,
}

impl From<Refused> for &'static str {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Overdrawn => "overdrawn",
            Refused::Overflow => "overflow",
        }
    }
}

impl Application for Accounts {
    const NAME: &'static str = "accounts";

    type Key = String;
    type Row = Packed<Account>;
    type Record<'a> = Movement<'a>;
    type Output = Posted;
    type Reason = Refused;
    type Tally = ();

    fn records<'a>(&self, payload: &'a [u8]) -> impl Iterator<Item = Result<Movement<'a>, Undecodable>> {
        // What is no text is one line that is no movement.
        let text = std::str::from_utf8(payload).unwrap_or("?");
        text.lines().enumerate().map(|(index, line)| {
            let parts = line.split_once(' ').and_then(|(account, amount)| Some((account, amount.parse().ok()?)));
            let (account, amount) = parts.ok_or(Undecodable { index, what: "no account and amount" })?;
            Ok(Movement { account, amount })
        })
    }

    fn key<'r>(&self, movement: &'r Movement<'_>) -> &'r str {
        movement.account
    }

    fn fold(
        &self,
        slot: Slot<'_, Packed<Account>>,
        movement: &Movement<'_>,
        cx: &mut Cx<'_, Self>,
    ) -> Result<(), Refused> {
        let Packed(mut account) = slot.get().cloned().unwrap_or_default();
        account.balance = account.balance.checked_add(movement.amount).ok_or(Refused::Overflow)?;
        account.movements += 1;
        if account.balance < 0 {
            return Err(Refused::Overdrawn);
        }
        let Movement { account: name, amount } = *movement;
        cx.put_out(Posted { place: cx.place(), account: name.to_owned(), amount, balance: account.balance });
        slot.set(Packed(account));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let system = System::new(Accounts, Config::from_env()?);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["apply"] => drop(system.apply().await?),
        ["keep"] => {
            let answer = |view: &View<Accounts>, name: &[u8]| {
                let account = view.get(&String::from_utf8_lossy(name))?.unwrap_or_default();
                Ok(format!("{} after {} movements", account.balance, account.movements).into_bytes())
            };
            system.worker().answering(answer).run(signals()?).await?;
        }
        ["post", name] => {
            let mut publisher = system.publisher_named(name).await?;
            for (line, number) in std::io::stdin().lines().zip(1..) {
                let line = line?;
                let account = line.split(' ').next().unwrap_or_default();
                publisher.push_at(number, account, |batch| batch.extend(format!("{line}\n").into_bytes())).await?;
            }
            publisher.finish().await?;
        }
        ["ask", account] => println!("{}", String::from_utf8_lossy(&system.ask(account, account.to_owned()).await?)),
        _ => eprintln!("accounts apply | keep | post NAME | ask ACCOUNT"),
    }
    Ok(())
}
