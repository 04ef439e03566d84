//! Under which terms this process writes to repositories: those of the leadership it holds, or the newest there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalog::Term;

/// The terms of one leadership, by the repository's place; without a leadership, the newest term of each.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct Terms(Option<Arc<Mutex<ByPlace>>>);

type ByPlace = BTreeMap<String, Arc<Term>>;

impl Terms {
    /// Those of a leadership that begins now.
    pub(in crate::app) fn of_leadership() -> Self {
        Self(Some(Arc::default()))
    }

    /// The term in the repository at `place`. By place, because a name may be given to another one by a reload.
    pub(in crate::app) fn of(&self, place: &str) -> Arc<Term> {
        match self.own() {
            Some(mut own) => own.entry(place.to_owned()).or_default().clone(),
            None => Arc::new(Term::Newest),
        }
    }

    /// Whether a repository refused this leadership because a later one has begun.
    pub(in crate::app) fn are_deposed(&self) -> bool {
        self.own().is_some_and(|own| own.values().any(|term| term.is_deposed()))
    }

    fn own(&self) -> Option<MutexGuard<'_, ByPlace>> {
        self.0.as_ref().map(|own| own.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
