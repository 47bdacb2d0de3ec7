//! What a server does not let its user do. It says so beside the answers: whoever was refused hears nothing else.

use std::fmt;

/// One refusal, as the server told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    action: Action,
    subject: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Publish,
    /// Publish with this subject for the answer.
    Reply,
    Subscribe,
}

impl Denied {
    /// Reads what nats-server says, if it is that.
    pub(super) fn read(error: &str) -> Option<Self> {
        let (_, rest) = error.split_once("Permissions Violation for ")?;
        let (action, rest) = rest.split_once('"')?;
        let action = match action.trim_end() {
            "Publish to" => Action::Publish,
            "Publish with Reply of" => Action::Reply,
            "Subscription to" => Action::Subscribe,
            _ => return None,
        };
        let (subject, _) = rest.split_once('"')?;
        Some(Self { action, subject: subject.to_owned() })
    }

    /// The subject that this user may not publish to, if it is that.
    pub fn publish_to(&self) -> Option<&str> {
        (self.action == Action::Publish).then_some(self.subject.as_str())
    }

    /// Whether it is a subject for answers to requests.
    fn is_inbox(&self) -> bool {
        self.subject.split('.').any(|token| token.starts_with("_INBOX"))
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { action, subject } = self;
        let action = match action {
            Action::Publish => "publish to",
            Action::Reply => "ask for answers at",
            Action::Subscribe => "subscribe to",
        };
        write!(f, "the NATS server does not let this user {action} {subject}: allow it, ")?;
        f.write_str(match self.is_inbox() {
            true => "or name with nats.inbox_prefix what this user may subscribe to",
            false => "or connect as a user that may",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_permissions_is_read_and_all_else_is_not() {
        let said = |error: &str| Denied::read(error).map(|denied| denied.to_string());
        for (error, starts) in [
            (
                "Permissions Violation for Publish to \"sums.1\"",
                "the NATS server does not let this user publish to sums.1: ",
            ),
            (
                "Permissions Violation for Publish with Reply of \"_INBOX.a.b\"",
                "the NATS server does not let this user ask for answers at _INBOX.a.b: ",
            ),
            (
                "Permissions Violation for Subscription to \"a.*\" using queue \"q\"",
                "the NATS server does not let this user subscribe to a.*: ",
            ),
        ] {
            let said = said(error).unwrap_or_else(|| panic!("{error}"));
            assert!(said.starts_with(starts), "{said}");
        }
        assert!(
            said("Permissions Violation for Subscription to \"_INBOX.a.*\"").unwrap().contains("nats.inbox_prefix")
        );
        for error in
            ["", "authorization violation", "Permissions Violation for ", "Permissions Violation for Dance to \"a\""]
        {
            assert_eq!(said(error), None, "{error}");
        }
    }
}
