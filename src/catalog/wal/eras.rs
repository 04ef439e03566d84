//! Which system wrote which stretch of a timeline: the records say so, and a few of them are read, by halving.

use chrono::{DateTime, Utc};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::repository::Repository;
use crate::catalog::wal::Coverage;
use crate::model::eras::{Era, Eras};
use crate::model::lsn::SystemId;
use crate::model::wal::{SegmentName, WalFile};

/// Records that are looked at for one that can be believed.
const MOST_UNREADABLE: usize = 16;

impl Repository {
    /// Whose log what is stored of a timeline is. Two records are read where one system wrote all of it.
    pub async fn wal_eras(&self, coverage: &Coverage, now: DateTime<Utc>) -> Result<Eras, CatalogError> {
        let names: Vec<SegmentName> = coverage.ranges.iter().flat_map(|range| range.segments(coverage.size)).collect();
        let mut forward = 0..names.len();
        let mut backward = (0..names.len()).rev();
        let Some((_, mut system)) = self.system_at(&names, &mut forward, now).await? else {
            return Ok(Eras::default());
        };
        let Some((end, last)) = self.system_at(&names, &mut backward, now).await? else { return Ok(Eras::default()) };
        let mut eras = vec![Era { system, first: names[0] }];
        let mut own = 0;
        while system != last {
            let (mut other, mut of_other) = (end, last);
            // `own` is of `system`, `other` is not: an era is never returned to.
            while other - own > 1 {
                let middle = own + (other - own) / 2;
                match self.system_at(&names, &mut (middle..other), now).await? {
                    Some((at, found)) if found == system => own = at,
                    Some((at, found)) => (other, of_other) = (at, found),
                    // What cannot be believed counts as its own: it stays.
                    None => own = middle,
                }
            }
            eras.push(Era { system: of_other, first: names[other] });
            (own, system) = (other, of_other);
        }
        Ok(Eras::new(eras))
    }

    /// The first of `names` at one of `places` whose record can be believed, and its system.
    async fn system_at(
        &self,
        names: &[SegmentName],
        places: &mut (dyn Iterator<Item = usize> + Send),
        now: DateTime<Utc>,
    ) -> Result<Option<(usize, SystemId)>, CatalogError> {
        for at in places.take(MOST_UNREADABLE) {
            match self.wal_record(WalFile::Segment(names[at]), now).await {
                Ok(Some(record)) => return Ok(Some((at, record.system_identifier))),
                Err(error) if matches!(error.kind, CatalogErrorKind::Storage(_)) => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(None)
    }
}
