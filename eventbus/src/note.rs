//! What was made of a record by the first that read it, for the others that read the same record.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// One thing beside a record, for as long as the record is there. Readers of a process share a record, and so what is noted on it.
#[derive(Clone, Default)]
pub struct Note(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Note {
    /// What is noted, made now when nothing is yet; `None` where something else is noted.
    pub fn get_or_make<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        Arc::clone(self.0.get_or_init(|| Arc::new(make()))).downcast().ok()
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Note" } else { "Note (empty)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_makes_it_for_all() {
        let note = Note::default();
        let one = note.get_or_make(|| 1_u8).unwrap();
        assert!(Arc::ptr_eq(&one, &note.get_or_make(|| 2_u8).unwrap()));
        assert!(Arc::ptr_eq(&one, &note.clone().get_or_make(|| 3_u8).unwrap()));
        assert_eq!(note.get_or_make(|| "another type"), None);
    }
}
