//! A second look at pages that fail in pg_basebackup's stream, which cannot be read twice: the server reads them again.
//!
//! A page that was just being written when the server sent it fails without being damaged. It is harmless only where its
//! file has it whole by now and changed within the backup: then the log that a copy replays has the whole page (PostgreSQL
//! manual, `full_page_writes`). One that is whole in its file and was not changed is wrong in the backup alone, and no log
//! mends that. Not every login may read the server's files; then it is told what that takes, and the page stays a finding.

use std::sync::Mutex;

use crate::model::base::DamagedPage;
use crate::model::failure::Failure;
use crate::model::lsn::Lsn;
use crate::model::outcome::{Finding, Severity};
use crate::model::table::quote_identifier;
use crate::ops::base_backup::Work;
use crate::ops::base_backup::reading::{PageCheck, PartReport, READINGS};
use crate::ops::base_backup::remote::lock;
use crate::postgres::file_tree::Entry;
use crate::postgres::page::{self, PAGE_BYTES, Page};
use crate::postgres::{PostgresError, PostgresErrorKind};

/// Pages of one part that are looked at again, at most: where more fail, it is not that they were being written.
const MOST_SUSPECTS: usize = 1000;

/// A page that failed, and where it is in its file, in bytes.
#[derive(Debug)]
pub(super) struct Suspect {
    page: DamagedPage,
    offset: u64,
}

/// Pages of one part that failed in the stream and that the log does not repair by what they say themselves.
#[derive(Debug, Default)]
pub(super) struct Suspects(Vec<Suspect>);

impl Suspects {
    /// Takes a page that failed at `offset` of its file. Gives it back where there are too many.
    fn take(&mut self, page: DamagedPage, offset: u64) -> Option<DamagedPage> {
        if self.0.len() == MOST_SUSPECTS {
            return Some(page);
        }
        self.0.push(Suspect { page, offset });
        None
    }
}

/// The pages that could not be looked at again, and why.
#[derive(Debug, Default)]
pub(super) struct Unseen {
    pages: u64,
    why: Option<PostgresError>,
}

/// Verifies the whole pages in `bytes`, which begin at `start` of the file. One that fails is noted where the log repairs it
/// by what it says itself, and suspected otherwise.
pub(super) fn verify(
    (report, suspects): (&Mutex<PartReport>, &Mutex<Suspects>),
    check: Option<PageCheck>,
    entry: &Entry,
    start: u64,
    bytes: &[u8],
) {
    let (Some(check), Some(relation)) = (check, entry.relation) else { return };
    for (number, page) in (0..).zip(bytes.chunks_exact(PAGE_BYTES)) {
        let offset = start + number * PAGE_BYTES as u64;
        let block = check.block(relation, offset);
        let Page::Broken(changed) = page::judge(page, block) else { continue };
        let page = DamagedPage { path: entry.path.clone(), block };
        let page = if changed < check.start { lock(suspects).take(page, offset) } else { Some(page) };
        if let Some(page) = page {
            lock(report).note(page, changed, check);
        }
    }
}

impl Work<'_> {
    /// Looks at each of `suspects` again, and notes in `report` what it is. After one that could not be looked at there
    /// is no asking any more.
    pub(super) async fn look_again(
        &self,
        suspects: Suspects,
        check: PageCheck,
        report: &mut PartReport,
        unseen: &mut Unseen,
    ) -> Result<(), Failure> {
        for suspect in suspects.0 {
            let mut changed = None;
            if unseen.why.is_none() {
                let looking = async { Ok(self.changed_by_now(&suspect).await) };
                match self.setting.unless_stopped("look at a page of the cluster again", looking).await? {
                    Ok(found) => changed = found,
                    Err(error) => unseen.why = Some(error),
                }
            }
            unseen.pages += u64::from(unseen.why.is_some());
            // Before the backup's start it is damaged, and after its end, too.
            report.note(suspect.page, changed.unwrap_or(Lsn(0)), check);
        }
        Ok(())
    }

    /// Where the page was changed last that its file has by now; nothing where that is not whole either.
    async fn changed_by_now(&self, suspect: &Suspect) -> Result<Option<Lsn>, PostgresError> {
        let DamagedPage { path, block } = &suspect.page;
        for _ in 0..READINGS {
            let bytes = self.session.bytes(path, suspect.offset, PAGE_BYTES).await?;
            let Some(bytes) = bytes.filter(|bytes| bytes.len() == PAGE_BYTES) else { return Ok(None) };
            if page::judge(&bytes, *block) == Page::Whole {
                return Ok(Some(page::changed(&bytes)));
            }
        }
        Ok(None)
    }

    /// That pages could not be looked at again.
    pub(super) fn unseen(&self, unseen: Unseen) -> Option<Finding> {
        let why = unseen.why?;
        let message = format!(
            "{} pages that failed in pg_basebackup's stream count as damaged, because they could not be read again: {}",
            unseen.pages,
            why.full_message()
        );
        let finding = Finding::new(Severity::Warning, "pages-not-read-again", message);
        let server = &self.cluster.facts.server;
        let (role, database) = (quote_identifier(&server.role.name), &server.database);
        Some(match why.kind {
            PostgresErrorKind::Permission => finding.remedy(format!(
                "in the database {database}: GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO \
                 {role}; then a page that was only being written is told from a damaged one"
            )),
            _ => finding.remedy("run the job again"),
        })
    }
}
