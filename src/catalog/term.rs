//! Terms: under which leadership a repository is written to.
//!
//! A leadership begins one term in each repository that it writes to and all its runs share it, so that they never
//! fence each other; once a later leadership has begun its own, every write of the earlier one is refused. Whoever
//! writes without leading (a command typed beside a running agent) adds under the newest term and begins none.

use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;

use crate::catalog::entry::{Head, Record};
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::repository::{APPEND_ATTEMPTS, Repository};

/// Under which term a repository is written to; shared by all runs of one leadership.
#[derive(Debug)]
pub enum Term {
    /// That of a leadership of our own, begun by its first write.
    Own(OwnTerm),
    /// The newest in the log, whoever began it.
    Newest,
}

/// The term of a leadership of our own.
#[derive(Debug, Default)]
pub struct OwnTerm {
    begun: OnceCell<u64>,
    deposed: AtomicBool,
}

impl Default for Term {
    fn default() -> Self {
        Self::Own(OwnTerm::default())
    }
}

impl Term {
    /// Whether a write under it was refused because a later leadership has begun its term.
    pub fn is_deposed(&self) -> bool {
        match self {
            Self::Own(own) => own.deposed.load(Ordering::Relaxed),
            Self::Newest => false,
        }
    }
}

impl Repository {
    /// Makes sure that our term has begun: from then on entries of older ones are refused. Gives its number.
    pub async fn term(&self, now: DateTime<Utc>) -> Result<u64, CatalogError> {
        match self.term.as_ref() {
            Term::Own(own) => own.begun.get_or_try_init(|| self.begin_term(now)).await.copied(),
            Term::Newest => Ok(self.head(now).await?.fencing_token),
        }
    }

    async fn begin_term(&self, now: DateTime<Utc>) -> Result<u64, CatalogError> {
        for _ in 0..APPEND_ATTEMPTS {
            let head = self.head(now).await?;
            let token = head.fencing_token + 1;
            match self.append_after(&head, token, Record::Term, now).await {
                Ok(_) => return Ok(token),
                Err(error) if error.is_exists() => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.contended())
    }

    /// The end of the log and the term to write under after it; refused when a later leadership has begun its term.
    pub(in crate::catalog) async fn writable_head(&self, now: DateTime<Utc>) -> Result<(Head, u64), CatalogError> {
        let Term::Own(own) = self.term.as_ref() else {
            let head = self.head(now).await?;
            return Ok((head, head.fencing_token));
        };
        let token = self.term(now).await?;
        let head = self.head(now).await?;
        if head.fencing_token > token {
            own.deposed.store(true, Ordering::Relaxed);
            let message = format!(
                "write to the catalog of repository {}: another agent took over (its term is {}, ours {token})",
                self.name, head.fencing_token
            );
            return Err(CatalogError::new(CatalogErrorKind::Fenced, message));
        }
        Ok((head, token))
    }
}
