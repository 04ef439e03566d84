//! A plain table becomes a partitioned one while it is written to: copy closed months, catch up, compare, swap.
//!
//! Each step is a transaction and says in the database what it has done, so a run that was killed is gone on with by the
//! next. Nothing is asked of writers but two short locks: when tracking begins, and when the names change. Until the plain
//! table is dropped, which needs a run of its own, everything can be taken back without losing a row.

use crate::host::failpoint::{FailPoint, pass};
use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::Outcome;
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::ops::partition::{Doors, TableRule, take_the_lock};
use crate::postgres::partitions::convert::{Conversion, Phase, Step, compare};
use crate::postgres::partitions::{Maintenance, Origin, Patience};
use crate::postgres::{PostgresError, PostgresErrorKind, ServerFacts};

/// Tries for each of the two locks.
const ATTEMPTS: u32 = 20;

/// Journal entries applied at once.
const ENTRIES: i32 = 5_000;

/// So few entries left are applied under the lock of the swap.
const FEW: u64 = 500;

/// Rounds of catching up before it is said that writers are faster.
const ROUNDS: u32 = 10_000;

/// What would be done.
#[derive(Clone, Debug)]
pub struct ConvertPlan {
    /// The table.
    pub table: QualifiedTable,
    /// What stands in its way, a sentence each; nothing may.
    pub obstacles: Vec<String>,
    /// How far a conversion is that was begun.
    pub phase: Option<Phase>,
    /// What is left to do, a sentence each.
    pub steps: Vec<String>,
}

/// What a conversion is carried out with.
pub struct Converter<'a> {
    rule: &'a TableRule,
    doors: &'a Doors,
    setting: &'a Setting,
    maintenance: Maintenance,
    origin: Origin,
    encoding: String,
}

impl<'a> Converter<'a> {
    /// Opens the doors. Changes nothing.
    pub async fn open(rule: &'a TableRule, doors: &'a Doors, setting: &'a Setting) -> Result<Self, Failure> {
        let maintenance = Maintenance::connect(&doors.connection).await?;
        let facts = ServerFacts::read(maintenance.session()).await?;
        if facts.in_recovery {
            return Err(Failure::new(FailureKind::Failed, "convert a table: this server is a standby"));
        }
        maintenance.require_installed().await?;
        let origin = maintenance.origin(&rule.name).await?;
        Ok(Self { rule, doors, setting, maintenance, origin, encoding: facts.encoding })
    }

    fn table(&self) -> &QualifiedTable {
        &self.origin.table
    }

    /// What stands in the way, and what is left to do.
    pub async fn plan(&self) -> Result<ConvertPlan, Failure> {
        let under_way = self.maintenance.conversion(self.table()).await?;
        let phase = under_way.as_ref().map(|conversion| conversion.phase);
        let mut obstacles = Vec::new();
        if phase.is_none() {
            obstacles = self.maintenance.convert_obstacles(&self.origin, &self.rule.rule.key).await?;
        }
        let table = self.table().clone();
        let steps = match phase {
            Some(Phase::Swapped) => {
                vec![format!("nothing: {table} is partitioned; --finish drops the plain table, --undo goes back to it")]
            }
            phase => {
                let begin = "track changes by a trigger (a lock that writers wait for, no longer than lock_timeout)";
                let months = match phase {
                    Some(_) => format!("copy {} months", self.maintenance.months_to_copy(&table).await?.len()),
                    None => {
                        "copy its rows month by month, the present one last; then what belongs to no month".to_owned()
                    }
                };
                let begin = (phase.is_none()).then(|| begin.to_owned());
                let rest = [
                    "catch up, and compare count and content sum of both tables",
                    "swap the names in one short transaction, with indexes, constraints, triggers and privileges",
                    "analyze, and compare again; the plain table stays until --finish",
                ];
                begin.into_iter().chain([months]).chain(rest.map(str::to_owned)).collect()
            }
        };
        Ok(ConvertPlan { table, obstacles, phase, steps })
    }

    /// Converts, or goes on with it.
    pub async fn convert(&self) -> Result<Outcome, Failure> {
        let table = self.table();
        let plan = self.plan().await?;
        if !plan.obstacles.is_empty() {
            let message = format!("convert {table}: {}", plan.obstacles.join("; "));
            return Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Nothing was changed."));
        }
        take_the_lock(&self.maintenance).await?;
        if plan.phase.is_none() {
            self.step(Step::Begin, "tracking changes").await?;
            pass(FailPoint::ConvertBegun)?;
        }
        if plan.phase != Some(Phase::Swapped) {
            self.copy().await?;
            self.catch_up().await?;
            self.require_equal().await?;
            self.swap().await?;
        }
        self.step(Step::Analyze, "analyzing").await?;
        let content = self.require_equal().await?;
        let summary = format!(
            "{table} is partitioned by month: {} rows compared equal; the plain table stays until --finish, --undo goes back",
            content.rows
        );
        Ok(Outcome::ok(summary))
    }

    /// Goes back to the plain table.
    pub async fn undo(&self) -> Result<Outcome, Failure> {
        take_the_lock(&self.maintenance).await?;
        let conversion = self.under_way().await?;
        if conversion.phase == Phase::Swapped {
            self.catch_up().await?;
            self.require_equal().await?;
        }
        self.patiently(Step::Undo).await?;
        Ok(Outcome::ok(format!("{} is the plain table again, with every change made since", self.table())))
    }

    /// Drops the plain table, once more proven equal.
    pub async fn finish(&self) -> Result<Outcome, Failure> {
        take_the_lock(&self.maintenance).await?;
        let conversion = self.under_way().await?;
        if conversion.phase != Phase::Swapped {
            let message = format!("finish the conversion of {}: it is not swapped yet", self.table());
            return Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Run it without --finish first."));
        }
        self.catch_up().await?;
        let content = self.require_equal().await?;
        self.patiently(Step::Finish).await?;
        Ok(Outcome::ok(format!("{}: the plain table is dropped; {} rows were equal", self.table(), content.rows)))
    }

    async fn under_way(&self) -> Result<Conversion, Failure> {
        self.maintenance.conversion(self.table()).await?.ok_or_else(|| {
            let message = format!("find a conversion of {}: none is under way", self.table());
            Failure::new(FailureKind::NothingMatches, message)
        })
    }

    /// Every month that is not copied yet, then what belongs to none.
    async fn copy(&self) -> Result<(), Failure> {
        self.step(Step::Range, "looking for the first month").await?;
        for month in self.maintenance.months_to_copy(self.table()).await? {
            self.setting.require_going_on("copy the next month")?;
            let rows = self.step(Step::Month(month), &format!("copying {month}")).await?;
            self.setting.events.note(format!("copied {month}: {rows} rows"));
            pass(FailPoint::ConvertMonthCopied)?;
        }
        self.step(Step::Rest, "copying what belongs to no month").await?;
        Ok(())
    }

    /// Until so little is left that the swap can do it.
    async fn catch_up(&self) -> Result<(), Failure> {
        self.setting.events.step("catching up with what was written meanwhile");
        let mut collisions = 0;
        for _ in 0..ROUNDS {
            self.setting.require_going_on("catch up")?;
            match self.maintenance.convert_step(self.table(), Step::CatchUp(ENTRIES), self.patience()).await {
                Ok(applied) if applied < FEW => return pass(FailPoint::ConvertCaughtUp),
                Ok(_) => collisions = 0,
                // Two rows have exchanged unique values, and one of the two entries came later: it is there by now.
                Err(error) if error.is_unique_violation() && collisions < ATTEMPTS => collisions += 1,
                Err(error) => return Err(error.into()),
            }
        }
        let message = format!("catch up with what is written to {}: writers are faster", self.table());
        Err(Failure::new(FailureKind::Failed, message).hint("Run it again at a quieter hour; it goes on where it is."))
    }

    async fn swap(&self) -> Result<(), Failure> {
        self.setting.events.step("swapping the names");
        self.patiently(Step::Swap).await?;
        pass(FailPoint::ConvertSwapped)
    }

    /// A step that needs a lock of the application's table; between two tries it is caught up again.
    async fn patiently(&self, step: Step) -> Result<(), Failure> {
        let once = Patience { attempts: 1, ..self.patience() };
        for attempt in 1.. {
            self.setting.require_going_on("try for the lock again")?;
            match self.maintenance.convert_step(self.table(), step, once).await {
                Ok(_) => return Ok(()),
                Err(error) if self.patience().again(&error, attempt).await => self.catch_up().await?,
                Err(error) => return Err(gave_up(error, attempt)),
            }
        }
        Ok(())
    }

    async fn step(&self, step: Step, told: &str) -> Result<u64, Failure> {
        self.setting.require_going_on(told)?;
        self.setting.events.step(format!("{}: {told}", self.table()));
        Ok(self.maintenance.convert_step(self.table(), step, self.patience()).await?)
    }

    /// Errors unless both tables hold the same rows, those that the journal still has left out.
    async fn require_equal(&self) -> Result<TableSum, Failure> {
        self.setting.events.step("comparing both tables");
        let conversion = self.under_way().await?;
        let (live, other) = compare(&self.doors.reader, &self.encoding, &conversion).await?;
        if live == other {
            return Ok(live);
        }
        let message = format!(
            "compare both tables of the conversion of {}: {} rows here and {} there, or others",
            self.table(),
            live.rows,
            other.rows
        );
        Err(Failure::new(FailureKind::Integrity, message)
            .hint("The table in use is untouched; `--undo` takes the conversion back. Please report this."))
    }

    fn patience(&self) -> Patience<'_> {
        Patience { lock_timeout: self.rule.lock_timeout, attempts: ATTEMPTS, clock: self.setting.clock.as_ref() }
    }
}

fn gave_up(error: PostgresError, attempts: u32) -> Failure {
    let busy = error.kind == PostgresErrorKind::LockTimeout;
    let failure = Failure::from(error);
    match busy {
        true => failure.hint(format!(
            "Somebody held the table through {attempts} tries. Nothing is lost: run it again at a quieter hour, it goes on."
        )),
        false => failure,
    }
}
