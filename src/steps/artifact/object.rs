//! One object of an artifact: a source through the pipeline into every repository that is still going.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use crate::catalog::ArtifactName;
use crate::host::{BytesSource, Child, Complete, Source, Stopper};
use crate::model::buckets::{KeySums, STORED_BYTES};
use crate::model::digest::TableSum;
use crate::model::event::{Event, Events};
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
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
        let made = self.make_all(vec![supply], targets).await?;
        Ok(made.into_iter().next().unwrap_or_default())
    }

    /// Sends several objects at once; they are then held back, uncommitted. Gives what each of them adds up to, in order.
    /// The first failure ends all of them.
    pub async fn make_all(&self, supplies: Vec<Supply>, targets: &mut [Target]) -> Result<Vec<Made>, Failure> {
        let mut plans = Vec::new();
        let mut flows = Vec::new();
        for supply in supplies {
            let plan = self.plan(&supply)?;
            let destinations = self.begin(&plan, supply.expected, targets).await;
            require_one(targets)?;
            plans.push(plan);
            flows.push((supply, destinations));
        }
        let flowed = self.flow_all(flows).await?;
        let made = plans.iter().zip(flowed).map(|(plan, flowed)| hand_over(plan, flowed, targets)).collect();
        require_one(targets)?;
        Ok(made)
    }

    fn plan(&self, supply: &Supply) -> Result<ObjectPlan, Failure> {
        let mut encoding = vec![supply.coding];
        // Sums of keys hide nothing that the manifest shows, and the next increment must read them without a key.
        if supply.role != ObjectRole::Buckets {
            encoding.push(Encoding::Gzip);
            encoding.extend(self.doors.recipients.is_some().then_some(Encoding::OpenPgp));
        }
        Ok(ObjectPlan { role: supply.role, key: self.name.object(supply.role, &encoding)?, encoding })
    }

    /// Opens an upload in every repository that is still going; those that cannot are left behind.
    async fn begin(&self, plan: &ObjectPlan, expected: Option<u64>, targets: &mut [Target]) -> Vec<Destination> {
        let mut destinations = Vec::new();
        for target in targets.iter_mut().filter(|target| target.is_going()) {
            match target.begin(&plan.key, expected).await {
                Ok(upload) => destinations.push(Destination {
                    name: target.repository.name.clone(),
                    upload,
                    stall_timeout: self.options.stall_timeout,
                }),
                Err(error) => target.give_up(error),
            }
        }
        destinations
    }

    /// Runs the flows side by side. One that fails stops the others, so that their uploads are aborted; its failure is
    /// the one told.
    async fn flow_all(&self, flows: Vec<(Supply, Vec<Destination>)>) -> Result<Vec<Flowed>, Failure> {
        let stop = self.setting.stop.child_token();
        let first = Mutex::new(None);
        let flow = async |(supply, destinations)| match self.flow(supply, destinations, &stop).await {
            Ok(flowed) => Some(flowed),
            Err(failure) => {
                first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
                stop.cancel();
                None
            }
        };
        let flowed: Option<Vec<Flowed>> = join_all(flows.into_iter().map(flow)).await.into_iter().collect();
        match (first.into_inner().unwrap_or_else(PoisonError::into_inner), flowed) {
            (None, Some(flowed)) => Ok(flowed),
            (Some(failure), _) => Err(failure),
            (None, None) => Err(Failure::new(FailureKind::Failed, "send the objects of the artifact")),
        }
    }

    async fn flow(
        &self,
        supply: Supply,
        destinations: Vec<Destination>,
        stop: &CancellationToken,
    ) -> Result<Flowed, Failure> {
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
        let flowing = store::store(supply.source, recipe, destinations, &progress, stop.clone());
        let stopped = async {
            stop.cancelled().await;
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
        mut keys: BTreeMap<QualifiedTable, (Vec<String>, KeySums)>,
        records: &mut [TableRecord],
        targets: &mut [Target],
    ) -> Result<(), Failure> {
        let buckets: usize = keys.values().map(|(_, sums)| sums.buckets() as usize).sum();
        let mut bytes = Vec::with_capacity(buckets * STORED_BYTES);
        for record in records {
            let Some((columns, sums)) = keys.remove(&record.table) else { continue };
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(&sums.to_bytes());
            let (buckets, digest) = (sums.buckets(), sums.digest());
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
    let bytes = Bytes::from(bytes);
    let mut source = Box::new(BytesSource::new(bytes.clone()));
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, "put the sums of keys together").because(error)
    };
    std::io::copy(&mut source, &mut std::io::sink()).map_err(|error| failed(error.into()))?;
    let proof = source.finish().map_err(|error| failed(error.into()))?;
    Ok((bytes, proof))
}

/// Runs `work` and tells its progress until it is done.
pub async fn telling<T>(
    events: &Events,
    progress: &Progress,
    expected: Option<u64>,
    work: impl Future<Output = T>,
) -> T {
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

/// What an object is called and how it is coded.
struct ObjectPlan {
    role: ObjectRole,
    key: ObjectKey,
    encoding: Vec<Encoding>,
}

impl ObjectPlan {
    fn record(&self, flowed: &Flowed, target: &Target) -> ObjectRecord {
        ObjectRecord {
            role: self.role,
            key: self.key.clone(),
            version: None,
            content_size: flowed.content.0,
            content_digest: flowed.content.1,
            stored_size: flowed.stored.0,
            stored_digest: flowed.stored.1,
            encoding: self.encoding.clone(),
            storage_class: target.storage_class(),
            sse: None,
        }
    }
}

/// Gives every repository its sent object, or the reason why it has none. One that another object has left behind
/// gets none.
fn hand_over(plan: &ObjectPlan, mut flowed: Flowed, targets: &mut [Target]) -> Made {
    for (name, sent) in std::mem::take(&mut flowed.destinations) {
        let going = targets.iter_mut().find(|target| target.repository.name == name && target.is_going());
        let Some(target) = going else { continue };
        match sent {
            Ok(upload) => {
                let record = plan.record(&flowed, target);
                target.hold(Pending { upload, proof: flowed.proof.clone(), record });
            }
            Err(error) => target.give_up(error.into()),
        }
    }
    Made { tables: flowed.tables, keys: flowed.keys }
}
