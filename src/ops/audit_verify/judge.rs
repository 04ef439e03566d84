//! From what was read to what is wrong: pure, but for the questions that name the rows once something is.

use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::audit::link::Linked;
use crate::model::audit::row::{Link, RowKey};
use crate::model::audit::seal::SealedRanges;
use crate::model::failure::Failure;
use crate::ops::audit_verify::reading::Reading;
use crate::postgres::audit::diagnosis::{self, Damage, DamageClass};
use crate::postgres::audit::snapshot::Head;
use crate::postgres::audit::{ChainSnapshot, Partition};

/// Whether log, links, side table and head all say the same.
pub(super) fn is_whole(reading: &Reading, head: Option<Head>) -> bool {
    let places = &reading.places;
    reading.rows.unsound_count == 0
        && places.is_dense()
        && reading.rows.tally.agrees(&places.tally)
        && head == Some(Head { seq: places.seq, hash: places.hash })
        && links_agree(&reading.linked, places.seq, reading)
}

/// One segment from the beginning to the end of the side table; or too many to hold, and then the equal sums have shown
/// it: the side table's order is part of them.
fn links_agree(linked: &Linked, seq: i64, reading: &Reading) -> bool {
    if linked.given_up {
        return !linked.collided;
    }
    match linked.whole() {
        Some(segment) => Some(segment.tail) == reading.places.hash && i64::try_from(segment.rows) == Ok(seq),
        None => seq == 0 && linked.segments.is_empty(),
    }
}

/// Names what is wrong with a chain that is not whole.
pub(super) async fn findings(
    reading: &Reading,
    snapshot: &ChainSnapshot,
    sealed: &SealedRanges,
) -> Result<Vec<ChainFinding>, Failure> {
    let genesis = snapshot.profiles.genesis().map(|genesis| genesis.to_string());
    let genesis = genesis.as_deref();
    let damages = diagnosis::diagnose(snapshot.session(), &snapshot.partitions, sealed, genesis).await?;
    let unsound = name_unsound(reading, snapshot).await?;
    let forks = match reading.linked.segments.len() {
        0 | 1 if !reading.linked.given_up => None,
        _ => diagnosis::forks(snapshot.session(), genesis).await?,
    };
    let mut findings = Judge { reading, head: snapshot.head, damages: &damages }.findings(unsound);
    findings.extend(forks.map(|(first, rows)| {
        let message = format!("{rows} rows follow a row that another follows too");
        ChainFinding::new(FindingKind::Fork, message).rows(first, rows)
    }));
    if findings.is_empty() {
        let message = "log and side table do not agree, and no row of either says how";
        findings.push(ChainFinding::new(FindingKind::LinkBroken, message));
    }
    findings.sort_by_key(|finding| (finding.kind, finding.first_bad.seq));
    Ok(findings)
}

struct Judge<'a> {
    reading: &'a Reading,
    head: Option<Head>,
    damages: &'a [Damage],
}

impl Judge<'_> {
    fn findings(&self, unsound: Option<ChainFinding>) -> Vec<ChainFinding> {
        let mut findings = Vec::new();
        findings.extend(self.altered(unsound));
        if self.side_table_is_short() {
            findings.extend(self.side_table_lost());
        } else {
            findings.extend(self.missing());
            findings.extend(self.extra());
            findings.extend(self.head());
        }
        findings.extend(self.unlinked());
        findings.extend(self.malformed_places());
        findings
    }

    fn of(&self, class: DamageClass) -> impl Iterator<Item = &Damage> {
        self.damages.iter().filter(move |damage| damage.class == class)
    }

    fn total(&self, class: DamageClass) -> u64 {
        self.of(class).map(|damage| damage.rows).sum()
    }

    /// Content that is not what was hashed, and hashes that are not those of their places: one finding, the earlier first.
    fn altered(&self, unsound: Option<ChainFinding>) -> Option<ChainFinding> {
        let other = self.of(DamageClass::Altered).next().map(|damage| {
            let message = format!("{} rows have another hash than their place in the chain", damage.rows);
            ChainFinding::new(FindingKind::RowAltered, message)
                .rows(damage.first.clone(), damage.rows)
                .differs(damage.expected.clone(), damage.actual.clone())
        });
        match (unsound, other) {
            (Some(one), Some(other)) => {
                let rows = one.bad_rows.max(other.bad_rows);
                let first = |finding: &ChainFinding| finding.first_bad.seq.unwrap_or(i64::MAX);
                let earlier = if first(&one) <= first(&other) { one } else { other };
                Some(ChainFinding { bad_rows: rows, ..earlier })
            }
            (one, other) => one.or(other),
        }
    }

    /// Rows are there and link up to an end, and only the side table lacks their places.
    fn side_table_is_short(&self) -> bool {
        let lost = self.total(DamageClass::Gap) + self.lost_at_the_end();
        let whole = self.reading.linked.whole().is_some_and(|segment| {
            self.head.is_some_and(|head| head.hash == Some(segment.tail) && u64::try_from(head.seq) == Ok(segment.rows))
        });
        lost > 0 && whole && self.total(DamageClass::Missing) == 0 && self.total(DamageClass::Extra) == lost
    }

    fn lost_at_the_end(&self) -> u64 {
        let end = self.head.map_or(0, |head| head.seq);
        u64::try_from(end - self.reading.places.seq).unwrap_or_default()
    }

    fn side_table_lost(&self) -> Option<ChainFinding> {
        let rows = self.total(DamageClass::Extra);
        let seq = match self.of(DamageClass::Gap).next() {
            Some(gap) => gap.first.seq,
            None => Some(self.reading.places.seq + 1),
        };
        let first = self.of(DamageClass::Extra).next().map(|damage| damage.first.clone()).unwrap_or_default();
        let message = format!("{rows} rows that link up have lost their places in audit.chain_seq");
        Some(ChainFinding::new(FindingKind::LinkBroken, message).rows(FirstBad { seq, ..first }, rows))
    }

    fn missing(&self) -> Vec<ChainFinding> {
        let mut findings = Vec::new();
        for damage in self.of(DamageClass::Missing) {
            let rows = damage.rows;
            let first = damage.first.seq.unwrap_or_default();
            let to_the_end = u64::try_from(self.reading.places.seq - first + 1) == Ok(rows);
            let (kind, message) = match (damage.covered, to_the_end) {
                (false, _) => {
                    let month = damage.first.recorded_at.as_deref().and_then(|at| at.get(..7)).unwrap_or("unknown");
                    let message = format!("the partition of {month} is gone without a seal, and {rows} rows with it");
                    (FindingKind::UnsealedRemoval, message)
                }
                (true, true) => (FindingKind::TailCut, format!("the newest {rows} rows are gone")),
                (true, false) => (FindingKind::RowMissing, format!("{rows} rows are gone")),
            };
            let finding = ChainFinding::new(kind, message).rows(damage.first.clone(), rows);
            findings.push(finding.differs(damage.expected.clone(), None));
        }
        let gaps = self.of(DamageClass::Gap).map(|gap| {
            let message = format!("{} rows are gone, and their places in audit.chain_seq too", gap.rows);
            ChainFinding::new(FindingKind::RowMissing, message).rows(gap.first.clone(), gap.rows)
        });
        findings.extend(gaps);
        findings
    }

    fn extra(&self) -> Option<ChainFinding> {
        let damage = self.of(DamageClass::Extra).next()?;
        let message = format!("{} rows have no place in the chain: they did not come through the trigger", damage.rows);
        let finding = ChainFinding::new(FindingKind::RowExtra, message).rows(damage.first.clone(), damage.rows);
        Some(finding.differs(None, damage.actual.clone()))
    }

    fn unlinked(&self) -> Option<ChainFinding> {
        let damage = self.of(DamageClass::Unlinked).next()?;
        let message = format!("{} rows do not follow the row before them", damage.rows);
        let finding = ChainFinding::new(FindingKind::LinkBroken, message).rows(damage.first.clone(), damage.rows);
        Some(finding.differs(damage.expected.clone(), damage.actual.clone()))
    }

    /// What the head says against the newest place.
    fn head(&self) -> Option<ChainFinding> {
        let places = &self.reading.places;
        let Some(head) = self.head else {
            return Some(ChainFinding::new(
                FindingKind::LinkBroken,
                "the row of the chain in audit.chain_head is gone",
            ));
        };
        if head.seq > places.seq {
            let rows = self.lost_at_the_end();
            let message = format!("the newest {rows} rows are gone, and their places in audit.chain_seq too");
            let first = FirstBad { seq: Some(places.seq + 1), ..FirstBad::default() };
            let finding = ChainFinding::new(FindingKind::TailCut, message).rows(first, rows);
            return Some(finding.differs(Some(head.seq.to_string()), Some(places.seq.to_string())));
        }
        if head.seq < places.seq || head.hash != places.hash {
            let message = "audit.chain_head does not name the newest place of audit.chain_seq";
            let first = FirstBad { seq: Some(head.seq), ..FirstBad::default() };
            let text = |hash: Option<crate::model::digest::Digest>| hash.map(|hash| hash.to_string());
            let finding = ChainFinding::new(FindingKind::LinkBroken, message).rows(first, 0);
            return Some(finding.differs(text(places.hash), text(head.hash)));
        }
        None
    }

    fn malformed_places(&self) -> Option<ChainFinding> {
        let count = self.reading.places.malformed;
        let message = format!("{count} places of audit.chain_seq have no hash");
        (count > 0).then(|| ChainFinding::new(FindingKind::LinkBroken, message))
    }
}

async fn name_unsound(reading: &Reading, snapshot: &ChainSnapshot) -> Result<Option<ChainFinding>, Failure> {
    let rows = &reading.rows;
    if rows.unsound_count == 0 {
        return Ok(None);
    }
    let keys: Vec<RowKey> = rows.unsound.keys().copied().collect();
    let places = diagnosis::places_of(snapshot.session(), &keys).await?;
    let count = rows.unsound_count;
    let finding =
        ChainFinding::new(FindingKind::RowAltered, format!("the content of {count} rows is not what was hashed"));
    let Some((at, first)) = places.into_iter().next() else { return Ok(Some(finding)) };
    let unsound = keys.get(at).and_then(|key| rows.unsound.get(key));
    let partition = unsound.and_then(|unsound| snapshot.partitions.get(unsound.partition)).map(name_of);
    let actual = unsound.map(|unsound| match unsound.stored {
        Link::Hash(hash) => hash.to_string(),
        Link::None | Link::Malformed => "no hash".to_owned(),
    });
    let mut finding = finding.rows(FirstBad { partition, ..first }, count);
    if let Some(formula) = keys.get(at).and_then(|key| snapshot.profiles.at(key.recorded_at)) {
        finding.message.push_str(&format!("; the first is held to {}", formula.name()));
    }
    Ok(Some(finding.differs(unsound.map(|unsound| unsound.computed.to_string()), actual)))
}

fn name_of(partition: &Partition) -> String {
    partition.table.name.clone()
}
