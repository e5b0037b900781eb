//! What Redis answers, taken apart (RESP 2).

use redis::Value;

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: String,
    /// Names and values in their order; `None` where the stream no longer holds the entry.
    pub fields: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Entry {
    /// The size of its fields, in bytes.
    pub fn bytes(&self) -> usize {
        self.fields.iter().flatten().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// What `XAUTOCLAIM` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// Where to go on; `0-0` at the end.
    pub next: String,
    /// What is now this consumer's.
    pub entries: Vec<Entry>,
}

/// How far a consumer group is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The last entry that it was given.
    pub last_delivered: String,
    /// Entries given and not acknowledged.
    pub pending: i64,
    /// Entries not given yet, where Redis knows.
    pub lag: Option<i64>,
}

/// An answer that is not what the command gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer to {0} cannot be read")]
pub struct Garbled(pub &'static str);

/// The entries of `XREAD` or `XREADGROUP` on one stream; none where it timed out.
///
/// # Errors
/// [`Garbled`].
pub fn read(value: Value) -> Result<Vec<Entry>, Garbled> {
    let entries = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Array(mut streams) if streams.len() <= 1 => match streams.pop() {
            None => return Ok(Vec::new()),
            Some(stream) => array(stream).and_then(|mut stream| stream.pop()).and_then(entries),
        },
        _ => None,
    };
    entries.ok_or(Garbled("a read"))
}

/// The answer to `XAUTOCLAIM`.
///
/// # Errors
/// [`Garbled`].
pub fn claimed(value: Value) -> Result<Claimed, Garbled> {
    let parts = || {
        let mut parts = array(value)?.into_iter();
        let (next, mut entries) = (string(parts.next()?)?, entries(parts.next()?)?);
        // From Redis 7 on, what the stream no longer holds is told by its ids alone.
        for id in parts.next().map_or(Some(Vec::new()), array)? {
            entries.push(Entry { id: string(id)?, fields: None });
        }
        Some(Claimed { next, entries })
    };
    parts().ok_or(Garbled("XAUTOCLAIM"))
}

/// The group of this name in the answer to `XINFO GROUPS`.
pub fn group(value: Value, name: &str) -> Option<Group> {
    array(value)?.into_iter().find_map(|group| {
        let mut found = Group::default();
        let mut own = false;
        let mut fields = array(group)?.into_iter();
        while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
            match (string(field)?.as_str(), value) {
                ("name", value) => own = bytes(value)? == name.as_bytes(),
                ("pending", Value::Int(pending)) => found.pending = pending,
                ("last-delivered-id", value) => found.last_delivered = string(value)?,
                ("lag", Value::Int(lag)) => found.lag = Some(lag),
                _ => {}
            }
        }
        own.then_some(found)
    })
}

/// The entries of `XRANGE`; `None` for what is none.
pub fn entries(value: Value) -> Option<Vec<Entry>> {
    array(value)?.into_iter().filter(|entry| *entry != Value::Nil).map(entry).collect()
}

fn entry(value: Value) -> Option<Entry> {
    let mut parts = array(value)?.into_iter();
    let id = string(parts.next()?)?;
    let fields = match parts.next()? {
        Value::Nil => None,
        fields => {
            let mut fields = array(fields)?.into_iter();
            let mut pairs = Vec::with_capacity(fields.len() / 2);
            while let Some(name) = fields.next() {
                pairs.push((bytes(name)?, bytes(fields.next()?)?));
            }
            Some(pairs)
        }
    };
    Some(Entry { id, fields })
}

/// The items of an array.
pub fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

/// The bytes of a string of either kind.
pub fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// A string of either kind that is UTF-8.
pub fn string(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn raw_entry(id: &str, fields: &[&str]) -> Value {
        Value::Array(vec![bulk(id), Value::Array(fields.iter().map(|field| bulk(field)).collect())])
    }

    #[test]
    fn entries_keep_the_order_of_their_fields() {
        let stream =
            Value::Array(vec![bulk("s"), Value::Array(vec![raw_entry("1-0", &["b", "1", "a", "2", "b", "3"])])]);
        let entries = read(Value::Array(vec![stream])).unwrap();
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let fields = Some(vec![pair("b", "1"), pair("a", "2"), pair("b", "3")]);
        assert_eq!(entries, [Entry { id: "1-0".into(), fields }]);
        assert_eq!(entries[0].bytes(), 6);
        assert_eq!(read(Value::Nil), Ok(Vec::new()));
    }

    #[test]
    fn deleted_entries_have_no_fields() {
        let gone = Value::Array(vec![bulk("2-0"), Value::Nil]);
        let value =
            Value::Array(vec![bulk("0-0"), Value::Array(vec![Value::Nil, gone]), Value::Array(vec![bulk("3-0")])]);
        let gone = |id: &str| Entry { id: id.into(), fields: None };
        let entries = vec![gone("2-0"), gone("3-0")];
        assert_eq!(claimed(value), Ok(Claimed { next: "0-0".into(), entries }));
    }

    #[test]
    fn garbage_is_an_error() {
        for value in [
            Value::Int(1),
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![bulk("s"), Value::Array(vec![raw_entry("1-0", &["odd"])])])]),
        ] {
            assert_eq!(read(value), Err(Garbled("a read")));
        }
        assert_eq!(claimed(Value::Array(vec![bulk("0-0")])), Err(Garbled("XAUTOCLAIM")));
    }

    #[test]
    fn the_group_is_found_by_its_name() {
        let info = |name: &str, lag: Value| {
            let fields =
                [bulk("name"), bulk(name), bulk("pending"), Value::Int(3), bulk("last-delivered-id"), bulk("5-1")];
            Value::Array(fields.into_iter().chain([bulk("lag"), lag]).collect())
        };
        let value = Value::Array(vec![info("a", Value::Int(7)), info("b", Value::Nil)]);
        let group_of = |name| group(value.clone(), name);
        assert_eq!(group_of("a"), Some(Group { last_delivered: "5-1".into(), pending: 3, lag: Some(7) }));
        assert_eq!(group_of("b").unwrap().lag, None);
        assert_eq!(group_of("c"), None);
    }
}
