//! One object of an artifact: a source through the pipeline into every repository that is still going.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::catalog::ArtifactName;
use crate::host::{BytesSource, Child, Complete, Source, Stopper};
use crate::model::buckets::KeySums;
use crate::model::digest::TableSum;
use crate::model::event::{Event, Events};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{Encoding, KeyRecord, ObjectRecord, ObjectRole, TableRecord};
use crate::model::table::QualifiedTable;
use crate::pipeline::archive::KeyPlan;
use crate::pipeline::store::{self, Destination, Flowed, Progress, Recipe};
use crate::steps::Setting;
use crate::steps::artifact::target::{Pending, Target, require_one};
use crate::steps::artifact::{Doors, Options};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What goes into one object, and how it is coded before compression and encryption.
pub struct Supply {
    /// What it is for.
    pub role: ObjectRole,
    /// Its coding.
    pub coding: Encoding,
    /// Its bytes.
    pub source: Box<dyn Source>,
    /// Bytes to expect, an estimate.
    pub expected: Option<u64>,
    /// Where the source is a pg_dump archive whose rows are to be summed: the tables whose keys are summed as well.
    pub rows: Option<BTreeMap<QualifiedTable, KeyPlan>>,
    /// What ends the program that gives the bytes, where one does.
    pub stopper: Option<Stopper>,
}

impl Supply {
    /// A source without rows of interest.
    pub fn plain(role: ObjectRole, coding: Encoding, source: Box<dyn Source>) -> Self {
        Self { role, coding, source, expected: None, rows: None, stopper: None }
    }

    /// The output of a program, which is ended when the run is.
    pub fn program(role: ObjectRole, coding: Encoding, child: Child) -> Self {
        let stopper = Some(child.stopper());
        Self { stopper, ..Self::plain(role, coding, Box::new(child)) }
    }
}

/// What the rows and keys of an object's tables add up to.
#[derive(Debug, Default)]
pub struct Made {
    /// Rows.
    pub tables: BTreeMap<QualifiedTable, TableSum>,
    /// Keys.
    pub keys: BTreeMap<QualifiedTable, KeySums>,
}

/// Makes the objects of one artifact.
pub struct ObjectMaker<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// What it is made with.
    pub doors: &'a Doors,
    /// The run.
    pub setting: &'a Setting,
    /// The artifact's name.
    pub name: &'a ArtifactName,
}

impl ObjectMaker<'_> {
    /// Sends one object everywhere; it is then held back, uncommitted.
    pub async fn make(&self, supply: Supply, targets: &mut [Target]) -> Result<Made, Failure> {
        let mut encoding = vec![supply.coding];
        // Sums of keys hide nothing that the manifest shows, and the next increment must read them without a key.
        if supply.role != ObjectRole::Buckets {
            encoding.push(Encoding::Gzip);
            encoding.extend(self.doors.recipients.is_some().then_some(Encoding::OpenPgp));
        }
        let key = self.name.object(supply.role, &encoding)?;
        let role = supply.role;
        let mut destinations = Vec::new();
        for target in targets.iter_mut().filter(|target| target.is_going()) {
            match target.begin(&key, supply.expected).await {
                Ok(upload) => destinations.push(Destination {
                    name: target.repository.name.clone(),
                    upload,
                    stall_timeout: self.options.stall_timeout,
                }),
                Err(error) => target.give_up(error),
            }
        }
        require_one(targets)?;
        let flowed = self.flow(supply, destinations).await?;
        let made = hand_over(flowed, targets, |flowed, target| ObjectRecord {
            role,
            key: key.clone(),
            version: None,
            content_size: flowed.content.0,
            content_digest: flowed.content.1,
            stored_size: flowed.stored.0,
            stored_digest: flowed.stored.1,
            encoding: encoding.clone(),
            storage_class: target.storage_class(),
            sse: None,
        });
        require_one(targets)?;
        Ok(made)
    }

    async fn flow(&self, supply: Supply, destinations: Vec<Destination>) -> Result<Flowed, Failure> {
        let stopper = supply.stopper;
        // The thread that reads it may wait for its next byte for as long as the limits allow: a run that is stopped or
        // dropped must not leave it behind.
        let _killed = stopper.as_ref().map(Stopper::kill_on_drop);
        let recipe = Recipe {
            rows: supply.rows.is_some(),
            keys: supply.rows.unwrap_or_default(),
            level: self.options.level,
            threads: self.options.threads,
            recipients: self.doors.recipients.clone(),
        };
        let progress = Arc::new(Progress::default());
        let flowing = store::store(supply.source, recipe, destinations, &progress, self.setting.stop.clone());
        let stopped = async {
            self.setting.stop.cancelled().await;
            stopper.iter().for_each(Stopper::stop);
            std::future::pending().await
        };
        tokio::select! {
            flowed = telling(&self.setting.events, &progress, supply.expected, flowing) => Ok(flowed?),
            never = stopped => never,
        }
    }

    /// Puts the sums of keys, and says in `records` where they are. Nothing when no table has a key.
    pub async fn put_buckets(
        &self,
        keys: &BTreeMap<QualifiedTable, (Vec<String>, KeySums)>,
        records: &mut [TableRecord],
        targets: &mut [Target],
    ) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for record in records {
            let Some((columns, sums)) = keys.get(&record.table) else { continue };
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(&sums.to_bytes());
            let (columns, buckets, digest) = (columns.clone(), sums.buckets(), sums.digest());
            record.key = Some(KeyRecord { columns, buckets, offset, digest });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let key = self.name.object(ObjectRole::Buckets, &[Encoding::Buckets])?;
        let (bytes, proof) = whole(bytes)?;
        for target in targets.iter_mut() {
            target.hold_plain(&key, Encoding::Buckets, &bytes, &proof).await;
        }
        require_one(targets)
    }
}

/// Bytes made here, with the proof that they are all there are.
fn whole(bytes: Vec<u8>) -> Result<(Bytes, Complete), Failure> {
    let mut source = Box::new(BytesSource::new(bytes));
    let mut read = Vec::new();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, "put the sums of keys together").because(error)
    };
    source.read_to_end(&mut read).map_err(|error| failed(error.into()))?;
    let proof = source.finish().map_err(|error| failed(error.into()))?;
    Ok((read.into(), proof))
}

/// Runs `work` and tells its progress until it is done.
async fn telling<T>(events: &Events, progress: &Progress, expected: Option<u64>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => events.tell(Event::Progress {
                bytes: progress.bytes(),
                expected_bytes: expected,
                rows: progress.rows(),
            }),
        }
    }
}

/// Gives every repository its sent object, or the reason why it has none.
fn hand_over(mut flowed: Flowed, targets: &mut [Target], record: impl Fn(&Flowed, &Target) -> ObjectRecord) -> Made {
    for (name, sent) in std::mem::take(&mut flowed.destinations) {
        let Some(target) = targets.iter_mut().find(|target| target.repository.name == name) else { continue };
        match sent {
            Ok(upload) => {
                let record = record(&flowed, target);
                target.hold(Pending { upload, proof: flowed.proof.clone(), record });
            }
            Err(error) => target.give_up(error.into()),
        }
    }
    Made { tables: flowed.tables, keys: flowed.keys }
}
