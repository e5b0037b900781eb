//! An offset as people see it: where reading goes on in every partition of one topic, as one opaque word that is safe in a URL and in
//! YAML without quotes.
//!
//! It is the unpadded URL-safe base64 of `{topic} {partition}:{position} {partition}:{position} ...`. The topic is a part of it so
//! that an offset of one input is not taken for a place in another.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use evoke_api::names::TopicName;

use super::ledger::Ledger;
use super::ledger::LedgerName;
use crate::bus::{From, Position};

/// Where reading goes on in one topic. [`Display`](fmt::Display) and [`FromStr`] are its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The topic.
    pub topic: TopicName,
    /// The position to go on at, by partition.
    pub positions: BTreeMap<u16, Position>,
}

/// A text that [`Token`] did not write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no offset: `evoke subscription list -o json` prints them")]
pub struct BadToken(String);

impl Token {
    /// The tokens of the topics that some ledgers are of, in the order of their names.
    pub fn of<'a>(ledgers: impl IntoIterator<Item = (&'a LedgerName, &'a Ledger)>) -> Vec<Self> {
        let mut topics = BTreeMap::<TopicName, BTreeMap<u16, Position>>::new();
        for (name, ledger) in ledgers {
            let LedgerName { partition, .. } = name;
            topics.entry(partition.topic.clone()).or_default().insert(partition.index, ledger.upto());
        }
        topics.into_iter().map(|(topic, positions)| Self { topic, positions }).collect()
    }

    /// Where to start in a partition. One that the token does not know came later and is read from its beginning.
    pub fn start(&self, partition: u16) -> From {
        self.positions.get(&partition).map_or(From::First, |at| From::At(*at))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.topic.to_string();
        for (partition, at) in &self.positions {
            text.push_str(&format!(" {partition}:{at}"));
        }
        f.write_str(&BASE64.encode(text))
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let read = || {
            let plain = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
            let mut words = plain.split(' ');
            let topic = words.next().filter(|topic| !topic.is_empty() && !topic.chars().any(char::is_control))?;
            let pair = |word: &str| {
                let (partition, at) = word.split_once(':')?;
                Some((partition.parse().ok()?, Position(at.parse().ok()?)))
            };
            let positions: BTreeMap<u16, Position> = words.map(pair).collect::<Option<_>>()?;
            (!positions.is_empty()).then(|| Self { topic: TopicName::parse(topic), positions })
        };
        read().ok_or_else(|| BadToken(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_text_is_one_word_for_urls_and_yaml() {
        let token = Token {
            topic: TopicName::parse("shop.web.orders"),
            positions: [(0, Position(1200)), (3, Position(u128::MAX))].into(),
        };
        let text = token.to_string();
        assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{text}");
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!((token.start(0), token.start(1)), (From::At(Position(1200)), From::First));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let encoded = |text: &str| BASE64.encode(text);
        for text in [
            "",
            "latest",
            "12",
            "0:12",
            &encoded("shop.orders"),
            &encoded(" 0:1"),
            &encoded("shop.orders 0:-1"),
            &encoded("shop.orders 65536:1"),
            &encoded("shop.orders 0:1 1"),
            &encoded("shop.orders\n 0:1"),
        ] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_token_is_read_back(
            topic in "[a-z.ä_-]{1,30}",
            positions in prop::collection::btree_map(any::<u16>(), any::<u128>().prop_map(Position), 1..9),
        ) {
            let token = Token { topic: TopicName::parse(&topic), positions };
            prop_assert_eq!(token.to_string().parse::<Token>(), Ok(token));
        }
    }
}
