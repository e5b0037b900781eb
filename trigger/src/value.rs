//! What conditions see of JSON and attributes, as CEL values.

use std::collections::HashMap;

use cel_interpreter::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelOptional, CelString, CelTimestamp,
    CelUInt,
};
use cel_interpreter::common::value::{CowVal, Val};
use chrono::{DateTime, FixedOffset};

use crate::json::{Datum, Malformed, Scanner, Token};

/// One value that a condition reads. Everything but a container is read without allocating.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    Text(&'a str),
    Time(DateTime<FixedOffset>),
    Bytes(&'a [u8]),
    Container(&'a Container),
}

/// A list or map, as CEL has it, and how much there is in it.
#[derive(Debug)]
pub(crate) struct Container {
    /// The list or map.
    pub(crate) value: Box<dyn Val>,
    /// See [`weight`].
    pub(crate) weight: u64,
}

impl Container {
    /// Wraps a list or map.
    pub(crate) fn new(value: Box<dyn Val>) -> Self {
        let weight = weight(value.as_ref());
        Self { value, weight }
    }
}

impl<'a> Value<'a> {
    /// Lends the value to CEL's own operators, so that it compares as CEL says.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&dyn Val) -> R) -> R {
        match *self {
            Self::Null => f(&CelNull),
            Self::Bool(value) => f(&CelBool::from(value)),
            Self::Int(value) => f(&CelInt::from(value)),
            Self::UInt(value) => f(&CelUInt::from(value)),
            Self::Double(value) => f(&CelDouble::from(value)),
            Self::Text(value) => f(&CelString::from(value)),
            Self::Time(value) => f(&CelTimestamp::from(value)),
            Self::Bytes(value) => f(&CelBytes::from(value)),
            Self::Container(container) => f(container.value.as_ref()),
        }
    }

    /// The value as the interpreter takes it.
    pub(crate) fn lend(&self) -> CowVal<'a, 'a> {
        match *self {
            Self::Null => CowVal::owned(CelNull),
            Self::Bool(value) => CowVal::owned(CelBool::from(value)),
            Self::Int(value) => CowVal::owned(CelInt::from(value)),
            Self::UInt(value) => CowVal::owned(CelUInt::from(value)),
            Self::Double(value) => CowVal::owned(CelDouble::from(value)),
            Self::Text(value) => CowVal::owned(CelString::from(value)),
            Self::Time(value) => CowVal::owned(CelTimestamp::from(value)),
            Self::Bytes(value) => CowVal::owned(CelBytes::from(value)),
            Self::Container(container) => CowVal::Borrowed(container.value.as_ref()),
        }
    }

    /// The value without borrowing the event.
    pub(crate) fn to_owned(self) -> Box<dyn Val> {
        match self {
            Self::Text(value) => Box::new(CelString::from(value.to_owned())),
            Self::Bytes(value) => Box::new(CelBytes::from(value.to_vec())),
            Self::Container(container) => container.value.clone(),
            Self::Null => Box::new(CelNull),
            Self::Bool(value) => Box::new(CelBool::from(value)),
            Self::Int(value) => Box::new(CelInt::from(value)),
            Self::UInt(value) => Box::new(CelUInt::from(value)),
            Self::Double(value) => Box::new(CelDouble::from(value)),
            Self::Time(value) => Box::new(CelTimestamp::from(value)),
        }
    }

    /// What CEL calls the value's type.
    pub(crate) fn kind(&self) -> String {
        self.with(|value| value.get_type().name().to_owned())
    }
}

/// Makes the value that `text` holds, which was found well formed before.
///
/// # Errors
/// [`Malformed`] when a number in it is larger than any double.
pub(crate) fn build(text: &str) -> Result<Box<dyn Val>, Malformed> {
    make(&mut Scanner::new(text), 0)
}

fn make(scanner: &mut Scanner<'_>, depth: usize) -> Result<Box<dyn Val>, Malformed> {
    let token = scanner.token()?;
    match token {
        Token::Object => {
            let mut members: HashMap<CelMapKey<'static>, Box<dyn Val>> = HashMap::new();
            scanner.object(depth, |scanner, key, depth| {
                members.insert(CelMapKey::from(key.into_owned()), make(scanner, depth)?);
                Ok(())
            })?;
            Ok(Box::new(CelMap::from(members)))
        }
        Token::Array => {
            let mut items: Vec<Box<dyn Val>> = Vec::new();
            scanner.array(depth, |scanner, _, depth| {
                items.push(make(scanner, depth)?);
                Ok(())
            })?;
            Ok(Box::new(CelList::from(items)))
        }
        Token::Text(text, false) => Ok(Box::new(CelString::from(text.to_owned()))),
        scalar => match scanner.datum(scalar) {
            Datum::Null => Ok(Value::Null.to_owned()),
            Datum::Bool(value) => Ok(Value::Bool(value).to_owned()),
            Datum::Int(value) => Ok(Value::Int(value).to_owned()),
            Datum::UInt(value) => Ok(Value::UInt(value).to_owned()),
            Datum::Double(value) => Ok(Value::Double(value).to_owned()),
            Datum::Unescaped(value) => Ok(Box::new(CelString::from(value.into_string()))),
            _ => Err(Malformed { at: scanner.offset() as usize, what: "a number larger than any double" }),
        },
    }
}

/// How much there is to copy or walk in a value: one for everything in it, and one for every 16 bytes of text.
pub(crate) fn weight(value: &dyn Val) -> u64 {
    let bytes = |length: usize| 1 + (length / 16) as u64;
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return list.inner().iter().fold(1, |sum, item| sum + weight(item.as_ref()));
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        return map.inner().iter().fold(1, |sum, (key, item)| sum + weight(key.inner()) + weight(item.as_ref()));
    }
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return bytes(text.inner().len());
    }
    if let Some(data) = value.downcast_ref::<CelBytes<'_>>() {
        return bytes(data.inner().len());
    }
    match value.downcast_ref::<CelOptional<'_>>() {
        Some(optional) => 1 + optional.option().map_or(0, weight),
        None => 1,
    }
}
