//! What a verb tells while it works. Terminal, log, metrics and page only consume these; no verb prints.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::model::outcome::Finding;

/// One thing told while a verb works.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A step begins: a short phrase such as "dumping eleven tables".
    Step {
        /// The phrase.
        text: String,
    },
    /// How far the present step is. Sent often; consumers thin it out.
    Progress {
        /// Bytes done.
        bytes: u64,
        /// Bytes expected, an estimate, where there is one.
        expected_bytes: Option<u64>,
        /// Rows done.
        rows: u64,
    },
    /// Something to know that does not stop the work.
    Note {
        /// The sentence.
        text: String,
    },
    /// A finding, told as soon as it is known; the outcome repeats it.
    Found {
        /// The finding.
        finding: Finding,
    },
}

/// Where events go: cheap to clone, callable from any thread.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `consumer`, which must not block.
    pub fn to(consumer: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(consumer))
    }

    /// Drops every event.
    pub fn nowhere() -> Self {
        Self::to(|_| {})
    }

    /// Tells one event.
    pub fn tell(&self, event: Event) {
        (self.0)(event);
    }

    /// Tells that a step begins.
    pub fn step(&self, text: impl Into<String>) {
        self.tell(Event::Step { text: text.into() });
    }

    /// Tells something to know.
    pub fn note(&self, text: impl Into<String>) {
        self.tell(Event::Note { text: text.into() });
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
