//! The claims, one after the other: each is tried for real and told in plain words with the command that does the same.
//!
//! A claim proves more than that nothing failed: that rows came back, that the damage was there, that the flipped byte
//! is what was noticed.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use crate::app::demo::stage::{DATABASE, Stage};
use crate::app::demo::{Claim, Guide, chain, past};
use crate::catalog::{Inventory, Repository, Selector, Unsigned};
use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{Manifest, ObjectRole};
use crate::model::outcome::Verdict;
use crate::model::size::ByteSize;
use crate::model::table::{QualifiedTable, TableName};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::restore::{self, Choice, DatabaseOptions, Doors, TableMode, TableOptions, Wanted};
use crate::postgres::{Session, copy};
use crate::steps::read_back;

/// The copy that is made of the database.
const COPY: &str = "consulting_tool_copy";
/// The database that full dump and increment make together.
const HOUR: &str = "consulting_tool_hour";
/// An hour's work: sessions end, and go on with another browser.
const WORK: &str = "DELETE FROM public.sessions WHERE id < '08000000-0000-0000-0000-000000000000'; \
     UPDATE public.sessions SET user_agent = 'a new browser' WHERE id >= 'f8000000-0000-0000-0000-000000000000'";
/// The table that comes to grief.
const TABLE: &str = "sessions";
/// An accident: nearly half the rows gone, and wrong values in some of the others.
const ACCIDENT: &str = "DELETE FROM public.sessions WHERE id < '70000000-0000-0000-0000-000000000000'; \
     UPDATE public.sessions SET user_agent = 'overwritten by mistake' \
     WHERE id >= 'c0000000-0000-0000-0000-000000000000'";
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// One tour.
pub(super) struct Tour<'a> {
    pub(super) stage: &'a Stage,
    pub(super) guide: &'a Guide,
}

impl<'a> Tour<'a> {
    pub(super) fn new(stage: &'a Stage, guide: &'a Guide) -> Self {
        Self { stage, guide }
    }

    /// All claims, in order. Errors only when told to stop.
    pub(super) async fn go(&self) -> Result<Vec<Claim>, Failure> {
        // Each on the heap: together they are larger than a thread's stack may be.
        Ok(vec![
            self.claim("dump", Box::pin(self.dump())).await?,
            self.claim("restore equal", Box::pin(self.restore_database())).await?,
            self.claim("increment", Box::pin(self.increment())).await?,
            self.claim("table restored", Box::pin(self.restore_damaged_table())).await?,
            self.claim("flipped byte found", Box::pin(self.flip_a_byte())).await?,
            self.claim("PITR", Box::pin(past::went_back(self.stage, self.guide))).await?,
            self.claim("partitions", Box::pin(self.maintain_partitions())).await?,
            self.claim("chain", Box::pin(chain::chained(self.stage, self.guide))).await?,
            self.claim("tamper alert", Box::pin(chain::alerted(self.stage, self.guide))).await?,
        ])
    }

    async fn claim(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<String, Failure>>,
    ) -> Result<Claim, Failure> {
        self.guide.require_going_on()?;
        let began = self.guide.clock.monotonic();
        let done = work.await;
        self.guide.require_going_on()?;
        let seconds = self.guide.seconds_since(began);
        match &done {
            Ok(told) => self.guide.events.note(format!("{told} ({seconds:.1} s)")),
            Err(failure) => {
                self.guide.events.note(format!("{name}: NOT SHOWN, failed to {}", failure.full_message()));
            }
        }
        Ok(Claim { name, ok: done.is_ok(), seconds })
    }

    /// Tells what a user would type for what is done next.
    pub(super) fn command(&self, command: &str) {
        self.guide.events.note(format!("\n$ {command}"));
    }

    async fn dump(&self) -> Result<String, Failure> {
        self.command("dbagent job run full");
        let outcome = self.stage.app.run_job("full", None, &self.setting()).await?;
        require(outcome.verdict == Verdict::Ok, || format!("make a whole dump: {}", outcome.summary))?;
        let manifest = self.latest().await?.1;
        let data = manifest.object(ObjectRole::Data).map_or(0, |data| data.content_size);
        let rows = rows_of(&manifest);
        require(rows > 0, || "dump any row".to_owned())?;
        Ok(format!(
            "Dumped {rows} rows of the eleven tables and their partitions under one snapshot: {} became {} in {}, compressed, encrypted, \
             read back and signed.",
            ByteSize(data),
            ByteSize(manifest.stored_size()),
            self.stage.repository().display()
        ))
    }

    async fn restore_database(&self) -> Result<String, Failure> {
        self.command(&format!("dbagent restore --database {DATABASE} --to-database {COPY}"));
        let (choice, doors, setting) = self.choose(None).await?;
        let options = DatabaseOptions { to_database: Some(COPY.to_owned()), replace: false, no_owner: false };
        let restored = restore::restore_database(&options, &choice, &doors, &setting).await?;
        let wanted = rows_of(choice.manifest());
        let equal = restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == wanted && wanted > 0;
        require(equal, || format!("restore {DATABASE} equal: {} rows of {wanted}", restored.rows()))?;
        Ok(format!(
            "Restored {wanted} rows into the new database {COPY}; in each of {} tables count and checksum of all rows \
             are what the signed manifest says.",
            restored.proofs.len()
        ))
    }

    async fn increment(&self) -> Result<String, Failure> {
        let before = self.sum().await?;
        self.session().await?.batch(WORK).await?;
        let after = self.sum().await?;
        require(after.rows < before.rows, || format!("work an hour: no row of {TABLE} is gone"))?;
        self.guide.events.note(format!(
            "\nAn hour goes by: {} rows of {TABLE} are deleted and others updated.",
            before.rows - after.rows
        ));
        self.command("dbagent job run incremental");
        let outcome = self.stage.app.run_job("incremental", None, &self.setting()).await?;
        let manifest = self.latest().await?.1;
        let made = outcome.verdict == Verdict::Ok && manifest.verb == Verb::Increment;
        require(made, || format!("make an increment: {}", outcome.summary))?;
        self.command(&format!("dbagent restore --database {DATABASE} --to-database {HOUR}"));
        let (choice, doors, setting) = self.choose(None).await?;
        let options = DatabaseOptions { to_database: Some(HOUR.to_owned()), replace: false, no_owner: false };
        let restored = restore::restore_database(&options, &choice, &doors, &setting).await?;
        let found = restored.proofs.iter().find(|proof| proof.table.name == TABLE).map(|proof| proof.found);
        let equal = restored.proofs.iter().all(|proof| proof.holds()) && found == Some(after);
        require(equal, || format!("restore {TABLE} as it was an hour later"))?;
        let changes = || manifest.tables.iter().filter_map(|record| record.change.as_ref());
        let stored: u64 = changes().map(|change| change.stored.rows).sum();
        Ok(format!(
            "Stored {stored} changed rows of {} and what was deleted, {} in all; full dump and increment together restore \
             into {HOUR} with exactly the rows of now: deleted ones stay deleted.",
            changes().map(|change| change.rows).sum::<u64>(),
            ByteSize(manifest.stored_size())
        ))
    }

    async fn restore_damaged_table(&self) -> Result<String, Failure> {
        let before = self.sum().await?;
        self.session().await?.batch(ACCIDENT).await?;
        let damaged = self.sum().await?;
        require(damaged.rows < before.rows, || format!("damage {TABLE}: no row is missing"))?;
        self.guide.events.note(format!(
            "\nAn accident: of {} rows of {TABLE}, {} are deleted and many others overwritten.",
            before.rows,
            before.rows - damaged.rows
        ));
        self.command(&format!("dbagent restore --table {TABLE} --mode replace --yes"));
        let (choice, doors, setting) = self.choose(Some(TABLE)).await?;
        let options = TableOptions {
            table: name_of(TABLE)?,
            mode: TableMode::Replace,
            plan_only: false,
            lock_timeout: LOCK_TIMEOUT,
            reindex: false,
        };
        let (plan, _) = restore::restore_table(&options, &choice, &doors, &setting).await?;
        let after = self.sum().await?;
        require(after == before, || format!("make {TABLE} what it was: {} rows of {}", after.rows, before.rows))?;
        let counts = plan.map(|plan| plan.counts);
        let (missing, differing) = counts.map_or((0, 0), |counts| (counts.missing, counts.differing));
        Ok(format!(
            "Brought {missing} rows of {TABLE} back and set {differing} right, in one transaction, touching no other \
             row; the table is what it was."
        ))
    }

    async fn flip_a_byte(&self) -> Result<String, Failure> {
        let (repository, manifest) = self.latest().await?;
        let Some(object) = manifest.object(ObjectRole::Data) else {
            return Err(Failure::new(FailureKind::Integrity, "find the rows in the dump"));
        };
        let path = self.stage.repository().join(object.key.as_str());
        let offset = object.stored_size / 2;
        let events = &self.guide.events;
        read_back::read_back(&repository, &manifest.objects, events).await?;
        flip(&path, offset)?;
        events.note(format!("\nDamage: one bit of byte {offset} of {} is turned over.", path.display()));
        self.command("dbagent backup verify latest");
        let noticed = read_back::read_back(&repository, &manifest.objects, events).await;
        flip(&path, offset)?;
        let reason = match noticed {
            Ok(_) => return Err(Failure::new(FailureKind::Integrity, "notice a flipped byte")),
            Err(failure) if failure.kind == FailureKind::Integrity => failure.full_message(),
            Err(failure) => return Err(failure),
        };
        read_back::read_back(&repository, &manifest.objects, events).await?;
        Ok(format!(
            "Verification refused the backup (failed to {reason}), and takes it again with the bit turned back."
        ))
    }

    pub(super) fn setting(&self) -> Setting {
        self.stage.app.setting(self.guide.events.clone(), self.guide.stop.clone())
    }

    async fn choose(&self, table: Option<&str>) -> Result<(Choice, Doors, Setting), Failure> {
        let (doors, setting) = (self.stage.app.restore_doors(None, None).await?, self.setting());
        let wanted = Wanted {
            selector: Selector::Latest,
            until: None,
            database: Some(DATABASE.to_owned()),
            table: table.map(name_of).transpose()?,
            accept_unsigned: false,
            plan_only: false,
        };
        let choice = restore::choose(&wanted, &doors, &setting).await?;
        Ok((choice, doors, setting))
    }

    /// The repository and the manifest of the newest dump in it.
    pub(super) async fn latest(&self) -> Result<(Repository, Manifest), Failure> {
        let nothing = || Failure::new(FailureKind::NothingMatches, "find the dump that was made");
        let repository = self.stage.app.repositories(None).await?.into_iter().next().ok_or_else(nothing)?;
        let inventory = Inventory::read(&repository, Unsigned::Refuse, self.guide.clock.now()).await?;
        let artifact = inventory.artifacts.into_iter().next_back().ok_or_else(nothing)?;
        Ok((repository, artifact.manifest))
    }

    pub(super) async fn session(&self) -> Result<Session, Failure> {
        Ok(copy::connect(&self.stage.app.connection(Verb::Dump, None)?, "UTF8").await?)
    }

    /// What the rows of the table add up to now.
    async fn sum(&self) -> Result<TableSum, Failure> {
        let table = QualifiedTable::new("public", TABLE);
        let manifest = self.latest().await?.1;
        let record = manifest.tables.iter().find(|record| record.table == table);
        let columns = record.map(|record| record.columns.clone()).unwrap_or_default();
        Ok(copy::sum_table(&self.session().await?, &table, &columns).await?)
    }
}

fn rows_of(manifest: &Manifest) -> u64 {
    manifest.tables.iter().filter_map(|record| record.content).map(|content| content.rows).sum()
}

fn name_of(table: &str) -> Result<TableName, Failure> {
    table.parse().map_err(|error| Failure::new(FailureKind::Usage, format!("name the table {table}")).because(error))
}

pub(super) fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(FailureKind::Integrity, otherwise())) }
}

/// Turns the lowest bit of one byte over, behind the repository's back.
fn flip(path: &Path, offset: u64) -> Result<(), Failure> {
    let turn = || -> io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 1], offset)
    };
    turn()
        .map_err(|error| Failure::new(FailureKind::Failed, format!("flip a bit of {}", path.display())).because(error))
}
