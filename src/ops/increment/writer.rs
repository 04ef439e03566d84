//! From rows and keys of many relations at once to one stream of numbered tar members.
//!
//! Each reader fills a buffer of its own and hands it over as a member; a row is never cut unless it is itself longer
//! than a member may be, and then its pieces are members next to each other. So concatenated members of a relation are
//! COPY text, and a reader of the archive is between two rows whenever the relation changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::host::SourceFeeder;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::ops::increment::relation::Found;
use crate::pipeline::tar::{self, Content, MEMBER_LIMIT, Member};

/// Pieces waiting between the readers and the pipeline.
pub(super) const WAITING: usize = 4;

/// A buffer becomes a member when it holds this much.
const MEMBER_BYTES: usize = 1 << 20;

const BROKEN_OFF: &str = "send the increment: the stream ended early";

/// What was found in the relations, by oid.
pub(super) type Relations = BTreeMap<u32, Found>;

/// Whether `failure` says only that the other end of the stream had its own error.
pub(super) fn is_broken_off(failure: &Failure) -> bool {
    failure.message == BROKEN_OFF
}

fn broken_off() -> Failure {
    Failure::new(FailureKind::Failed, BROKEN_OFF)
}

/// The one that numbers members, shared by all readers.
#[derive(Clone)]
pub(super) struct Writer(Arc<Mutex<Numbered>>);

struct Numbered {
    feeder: SourceFeeder,
    last: u64,
}

impl Writer {
    pub(super) fn new(feeder: SourceFeeder) -> Self {
        Self(Arc::new(Mutex::new(Numbered { feeder, last: 0 })))
    }

    /// A buffer for one relation.
    pub(super) fn member(&self, table: &QualifiedTable, content: Content) -> MemberBuffer {
        MemberBuffer { writer: self.clone(), table: table.clone(), content, bytes: Vec::new() }
    }

    /// Writes `bytes` as one member, or as many as it takes, next to each other.
    async fn write(&self, table: &QualifiedTable, content: Content, bytes: Bytes) -> Result<(), Failure> {
        let mut numbered = self.0.lock().await;
        for at in (0..bytes.len()).step_by(MEMBER_LIMIT) {
            let piece = bytes.slice(at..bytes.len().min(at + MEMBER_LIMIT));
            numbered.last += 1;
            let member = Member { number: numbered.last, table: table.clone(), content };
            let padding = vec![0; tar::padding(piece.len())];
            for part in [member.header(piece.len()).into(), piece, padding.into()] {
                if !numbered.feeder.give(part).await {
                    return Err(broken_off());
                }
            }
        }
        Ok(())
    }

    /// Ends the archive. Nobody writes any more.
    pub(super) async fn end(self) -> Result<(), Failure> {
        let numbered = Arc::into_inner(self.0).ok_or_else(broken_off)?.into_inner();
        match numbered.feeder.give(tar::end().into()).await && numbered.feeder.end().await {
            true => Ok(()),
            false => Err(broken_off()),
        }
    }
}

/// Lines of one relation on their way into members.
pub(super) struct MemberBuffer {
    writer: Writer,
    table: QualifiedTable,
    content: Content,
    bytes: Vec<u8>,
}

impl MemberBuffer {
    /// The buffer to append one line to; [`MemberBuffer::flush_if_full`] comes next.
    pub(super) fn line(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Hands the lines over if there are enough of them.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), Failure> {
        if self.bytes.len() < MEMBER_BYTES { Ok(()) } else { self.flush().await }
    }

    /// Hands the lines over, if there are any.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes).into();
        self.writer.write(&self.table, self.content, bytes).await
    }
}
