//! The events of one call that are published, beside those that are refused before.

use prometheus::IntCounter;

use crate::bus::PublishError;
use crate::event::Event;

/// Which events of a call were refused, and why.
#[derive(Debug)]
pub(crate) struct Refused {
    total: usize,
    /// In order.
    events: Vec<(usize, PublishError)>,
}

/// The events that are not larger than `limit`, in bytes; counts the others.
pub(crate) fn sift(events: Vec<Event>, limit: usize, refused: &IntCounter) -> (Vec<Event>, Refused) {
    let total = events.len();
    if events.iter().all(|event| event.encoded_len() <= limit) {
        return (events, Refused { total, events: Vec::new() });
    }
    let (mut taken, mut too_large) = (Vec::with_capacity(total), Vec::new());
    for (index, event) in events.into_iter().enumerate() {
        let bytes = event.encoded_len();
        if bytes > limit {
            too_large.push((index, PublishError::TooLarge { bytes, limit }));
        } else {
            taken.push(event);
        }
    }
    refused.inc_by(too_large.len() as u64);
    (taken, Refused { total, events: too_large })
}

impl Refused {
    /// One result an event: that of the others is `stored`.
    pub(crate) fn results(self, stored: &Result<(), PublishError>) -> Vec<Result<(), PublishError>> {
        let mut results = vec![stored.clone(); self.total];
        for (index, error) in self.events {
            if let Some(result) = results.get_mut(index) {
                *result = Err(error);
            }
        }
        results
    }
}
