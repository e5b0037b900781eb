//! How much work one evaluation may do, so that no condition and no event keeps a process busy or fills its memory.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use cel_interpreter::common::types::Type;
use cel_interpreter::common::value::{StaticVal, Val};
use evoke_api::limits;

static TYPE: Type = Type::new_unspecified_type("evoke.budget");

/// The steps that are left. A macro costs what is in its list, times the size of its body; a list or map of the event costs
/// what is in it, each time it is read.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    pub(super) const NAME: &str = "steps";

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(limits::CONDITION_STEPS))
    }

    /// Takes steps, or all that are left; false once there were too few.
    pub(super) fn charge(&self, steps: u64) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        let fits = left > steps;
        self.0.store(if fits { left - steps } else { 0 }, Ordering::Relaxed);
        fits
    }

    /// True once there were too few steps.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Val for Budget {
    fn get_type(&self) -> &Type {
        &TYPE
    }

    fn cel_type() -> &'static Type {
        &TYPE
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(Self(AtomicU64::new(self.0.load(Ordering::Relaxed))))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Budget {}
