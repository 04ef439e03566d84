//! One table as it was: a recovery in a scratch place, the table out of it into the live database, and nothing left.
//!
//! Two verbs one after the other, each with its own doors; neither knows of the other.

use crate::app::App;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::recover::{self, Plan, Restored, Started};
use crate::ops::restore::{self, Past, TableOptions, TableResult};
use crate::postgres::{Connection, ConnectionRequest};

/// What both verbs work with.
#[derive(Debug)]
pub struct PastDoors {
    /// For the recovery.
    pub recover: recover::Doors,
    /// For the live database.
    pub restore: restore::Doors,
}

/// What came of it.
#[derive(Debug)]
pub struct PastRestored {
    /// What was done to the table, or would be.
    pub table: TableResult,
    /// The copy that was made for it.
    pub restored: Restored,
    /// How far it was recovered.
    pub started: Started,
    /// Seconds from its being there to the end.
    pub seconds: f64,
}

impl App {
    /// What restoring a table as it was works with, reading from all repositories or from the one called `only`.
    pub async fn past_doors(&self, only: Option<&str>, jobs: Option<usize>) -> Result<PastDoors, Failure> {
        let restore = self.restore_doors(only, jobs).await?;
        Ok(PastDoors { recover: self.recover_doors(only, jobs).await?, restore })
    }

    /// Refuses at once what [`App::restore_past_table`] would refuse in the end. Gives what starts the copy.
    pub async fn require_past_table(
        &self,
        plan: &Plan,
        table: &TableOptions,
        doors: &PastDoors,
    ) -> Result<recover::Starter, Failure> {
        let live = &doors.restore.connection;
        restore::require_possible(table, &doors.restore).await?;
        let starter = recover::Starter {
            user: live.user().to_owned(),
            // The one that every cluster has.
            database: "template1".to_owned(),
            ..self.starter(plan).await?
        };
        recover::require_aside(plan, &doors.restore.scratch_directory, live).await?;
        Ok(starter)
    }

    /// Recovers what `plan` says, as `options` say, in the scratch directory, and restores a table from there.
    pub async fn restore_past_table(
        &self,
        plan: &Plan,
        options: &recover::Options,
        table: &TableOptions,
        doors: &PastDoors,
        setting: &Setting,
    ) -> Result<PastRestored, Failure> {
        let starter = self.require_past_table(plan, table, doors).await?;
        let live = &doors.restore.connection;
        let directory = &doors.restore.scratch_directory;
        let aside = recover::aside(plan, options, directory, &doors.recover, &starter, setting).await?;
        self.remember_pace(plan, &aside.restored, Some(&aside.started));
        let began = setting.clock.monotonic();
        let past = Past { connection: self.of_copy(&aside.started, live)?, moment: options.target.to_string() };
        let restore = restore::Doors { scratch_directory: aside.directory().to_owned(), ..doors.restore.clone() };
        let done = restore::restore_past_table(table, &past, &restore, setting).await;
        let (restored, started) = (aside.restored.clone(), aside.started.clone());
        let seconds = (setting.clock.monotonic() - began).as_secs_f64();
        setting.events.step("removing the copy of the cluster");
        let cleared = aside.clear().await;
        // What became of the table is told first.
        let table = done?;
        cleared?;
        Ok(PastRestored { table, restored, started, seconds })
    }

    /// The database that `live` leads to, in the copy; read as the role that dumps it.
    fn of_copy(&self, started: &Started, live: &Connection) -> Result<Connection, Failure> {
        let request = ConnectionRequest {
            host: Some(started.socket.display().to_string()),
            port: Some(started.port),
            user: Some(live.user().to_owned()),
            database: Some(live.database().to_owned()),
            role: self.loaded.config.postgres.roles.get(&Verb::Dump).cloned(),
            ..ConnectionRequest::default()
        };
        Ok(request.resolve()?)
    }
}
