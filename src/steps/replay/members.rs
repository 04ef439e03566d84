//! Reads an increment's archive on a thread of its own and hands on what belongs to wanted tables.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::host::Source;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::pipeline::tar::{Content, TarReader};

/// Pieces waiting between reading and loading.
pub(super) const WAITING: usize = 4;

const PIECE_BYTES: usize = 256 << 10;

/// What comes out of an archive.
pub(super) enum Piece {
    /// What follows belongs to this table.
    Begin(QualifiedTable, Content),
    /// COPY text.
    Bytes(Bytes),
}

/// Reads `source` to its end. A loader that has gone away ends it without complaint: it has its own error.
pub(super) fn read(
    source: Box<dyn Source>,
    wanted: &BTreeSet<QualifiedTable>,
    pieces: &mpsc::Sender<Piece>,
) -> Result<(), Failure> {
    let mut reader = TarReader::new(source);
    while let Some(member) = reader.next_member().map_err(damaged)? {
        if !wanted.contains(&member.table) {
            continue;
        }
        if pieces.blocking_send(Piece::Begin(member.table, member.content)).is_err() {
            return Ok(());
        }
        loop {
            let mut piece = BytesMut::zeroed(PIECE_BYTES);
            let count = reader.read_content(&mut piece).map_err(damaged)?;
            if count == 0 {
                break;
            }
            piece.truncate(count);
            if pieces.blocking_send(Piece::Bytes(piece.freeze())).is_err() {
                return Ok(());
            }
        }
    }
    reader.into_source().map_err(damaged)?.finish().map(|_| ()).map_err(damaged)
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(FailureKind::Integrity, "read the increment")
        .because(error)
        .hint("Nothing of it is used. Try another copy or another backup.")
}
