//! F94: what is made and what may go, under clocks of 2024 to 2030: months end, leap days, years turn, months of downtime.

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use dbagent::model::digest::TableSum;
use dbagent::model::id::ArtifactId;
use dbagent::model::partition::{
    Archive, Bound, Evidence, MakeReason, Month, Parent, Partition, Plan, Reference, Refusal, Rule, Seal, alarms, gate,
    plan,
};
use dbagent::model::span::Span;
use dbagent::model::table::QualifiedTable;
use proptest::prelude::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn rule(retention: Option<&str>) -> Rule {
    let retention = retention.map(|text| text.parse().unwrap());
    Rule { key: "at".into(), retention, premake: 3, seal: false, archive: true, keep_detached: false }
}

fn partition(name: &str, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Partition {
    let table = QualifiedTable::new("public", name);
    Partition { table, oid: 1, bound: Bound::Range { from, to }, rows: 0, bytes: 0, detach_pending: false }
}

fn of_month(month: Month) -> Partition {
    partition(&format!("events_{}", month.first_day().format("%Y_%m")), Some(month.lower()), Some(month.upper()))
}

fn parent(partitions: Vec<Partition>) -> Parent {
    Parent { table: QualifiedTable::new("public", "events"), partitions, strays: Vec::new(), dateless: 0 }
}

/// A parent with whole months from the one of `first`, `count` of them.
fn months(first: &str, count: u32) -> Parent {
    let first = Month::of(at(first));
    parent((0..count).map(|later| of_month(first.plus(later))).collect())
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_hms_opt(0, 0, 0).unwrap().and_utc()
}

/// What the server has after the plan was carried out.
fn apply(parent: &mut Parent, plan: &Plan) {
    for make in &plan.make {
        parent.partitions.push(partition(&make.table.name, Some(midnight(make.from)), Some(midnight(make.to))));
        parent.strays.retain(|(day, _)| *day < make.from || *day >= make.to);
    }
    parent.partitions.retain(|partition| !plan.retire.iter().any(|retire| retire.partition.table == partition.table));
    parent.partitions.sort_by_key(|partition| partition.bound.interval());
}

fn made(plan: &Plan) -> Vec<String> {
    plan.make.iter().map(|make| make.table.name.clone()).collect()
}

fn retired(plan: &Plan) -> Vec<String> {
    plan.retire.iter().map(|retire| retire.partition.table.name.clone()).collect()
}

#[test]
fn an_empty_parent_gets_the_present_month_and_those_ahead() {
    let plan = plan(&parent(Vec::new()), &rule(None), at("2025-12-31T23:59:59Z"));
    assert_eq!(made(&plan), ["events_2025_12", "events_2026_01", "events_2026_02", "events_2026_03"]);
    assert_eq!(plan.make[0].reason, MakeReason::Now);
    assert_eq!(plan.make[3].to, NaiveDate::from_ymd_opt(2026, 4, 1).unwrap());
}

#[test]
fn after_months_of_downtime_every_month_between_is_made() {
    let plan = plan(&months("2025-01-15T00:00:00Z", 2), &rule(Some("36 months")), at("2025-06-01T00:00:00Z"));
    let wanted: Vec<String> = (3..=9).map(|month| format!("events_2025_{month:02}")).collect();
    assert_eq!(made(&plan), wanted);
    assert!(
        plan.make.iter().all(|make| (make.reason == MakeReason::Gap) == (make.table.name.as_str() < "events_2025_06"))
    );
}

#[test]
fn a_month_past_its_retention_is_no_gap_to_be_filled() {
    let mut held = months("2022-01-01T00:00:00Z", 1);
    held.partitions.extend(months("2025-01-01T00:00:00Z", 6).partitions);
    let plan = plan(&held, &rule(Some("6 months")), at("2025-03-10T00:00:00Z"));
    assert_eq!(made(&plan), ["events_2024_09", "events_2024_10", "events_2024_11", "events_2024_12"]);
    assert_eq!(retired(&plan), ["events_2022_01"]);
}

#[test]
fn the_boundary_of_the_specification_holds_to_the_instant() {
    let parent = months("2022-01-01T00:00:00Z", 48);
    let plan_at = |now: &str| retired(&plan(&parent, &rule(Some("36 months")), at(now)));
    assert!(plan_at("2025-01-31T23:59:59.999999Z").is_empty());
    assert_eq!(plan_at("2025-02-01T00:00:00Z"), ["events_2022_01"]);
}

#[test]
fn the_last_partition_stays_however_old_it_is() {
    let parent = months("2020-01-01T00:00:00Z", 3);
    let plan = plan(&parent, &rule(Some("6 months")), at("2026-03-10T00:00:00Z"));
    assert_eq!(retired(&plan), ["events_2020_01", "events_2020_02"]);
    assert_eq!(plan.findings[0].code, "last-partition-stays");
}

#[test]
fn bounds_count_and_names_do_not() {
    let now = at("2026-03-10T00:00:00Z");
    let mut parent = months("2026-03-01T00:00:00Z", 4);
    parent.partitions[0].table.name = "events_1999_01".into();
    let plan = plan(&parent, &rule(Some("1 month")), now);
    assert!(plan.make.is_empty() && plan.retire.is_empty(), "{plan:?}");
}

#[test]
fn a_lone_partition_far_ahead_does_not_pull_months_after_it() {
    let mut parent = months("2026-03-01T00:00:00Z", 4);
    parent.partitions.push(of_month(Month::of(at("2099-01-01T00:00:00Z"))));
    let plan = plan(&parent, &rule(None), at("2026-03-10T00:00:00Z"));
    assert!(plan.make.is_empty(), "{plan:?}");
}

#[test]
fn what_a_time_zone_has_moved_is_told_and_never_overlapped() {
    let now = at("2026-03-10T00:00:00Z");
    let moved = partition("events_x", Some(at("2026-02-28T15:00:00Z")), Some(at("2026-03-31T15:00:00Z")));
    let parent = parent(vec![moved]);
    let plan = plan(&parent, &rule(None), now);
    assert_eq!(made(&plan), ["events_2026_04", "events_2026_05", "events_2026_06"]);
    let codes: Vec<_> =
        plan.findings.iter().chain(&alarms(&parent, &rule(None), now)).map(|f| f.code.clone()).collect();
    assert_eq!(codes, ["partition-bounds", "partition-bounds", "few-partitions-ahead", "partition-bounds"]);
}

#[test]
fn f90_rows_in_default_move_with_their_month_in_parts_where_they_are_many() {
    let day = |text: &str| text.parse::<NaiveDate>().unwrap();
    let mut parent = months("2026-02-01T00:00:00Z", 1);
    parent.strays = vec![
        (day("2026-03-02"), 20_000),
        (day("2026-03-20"), 28_000),
        (day("2026-03-21"), 80_000),
        (day("2026-04-01"), 7),
        (day("1999-01-01"), 3),
    ];
    let plan = plan(&parent, &rule(None), at("2026-03-10T00:00:00Z"));
    let parts: Vec<_> = plan.make.iter().map(|make| (make.table.name.as_str(), make.moves)).collect();
    let wanted = [
        ("events_2026_03_01", 48_000),
        ("events_2026_03_21", 80_000),
        ("events_2026_04", 7),
        ("events_2026_05", 0),
        ("events_2026_06", 0),
    ];
    assert_eq!(parts, wanted);
    let told = alarms(&parent, &rule(None), at("2026-03-10T00:00:00Z"));
    let strays = told.iter().find(|finding| finding.code == "rows-in-default").unwrap();
    assert!(strays.message.contains("128010 rows") && strays.message.contains("1999-01: 3"), "{}", strays.message);
}

#[test]
fn alarms_tell_what_is_overdue_and_what_is_pending() {
    let now = at("2026-03-10T00:00:00Z");
    let mut parent = months("2025-01-01T00:00:00Z", 18);
    assert!(alarms(&parent, &rule(Some("13 months")), now).is_empty());
    parent.partitions[5].detach_pending = true;
    let told: Vec<_> = alarms(&parent, &rule(Some("12 months")), now).into_iter().map(|f| f.code).collect();
    assert_eq!(told, ["detach-pending", "retention-overdue"]);
    assert_eq!(plan(&parent, &rule(None), now).finish, [parent.partitions[5].clone()]);
}

#[test]
fn f93_the_gate_is_shut_until_everything_is_there() {
    let content = TableSum { rows: 5, ..TableSum::default() };
    let archive = Archive { id: ArtifactId::new(at("2026-01-01T00:00:00Z")), content };
    let plain = rule(Some("6 months"));
    let sealed = Rule { seal: true, ..plain.clone() };
    let whole = Evidence { content: Some(content), archive: Some(archive), ..Evidence::default() };
    assert!(gate(&plain, &whole).is_empty());
    assert_eq!(gate(&plain, &Evidence::default()), [Refusal::NoArchive]);
    assert_eq!(gate(&sealed, &Evidence::default()), [Refusal::NoArchive, Refusal::NoSeal]);
    assert_eq!(gate(&sealed, &whole), [Refusal::NoSeal]);
    let changed = Evidence { content: Some(TableSum { rows: 6, ..content }), ..whole.clone() };
    assert_eq!(gate(&plain, &changed), [Refusal::OtherContent]);
    assert_eq!(gate(&plain, &Evidence { content: None, ..whole.clone() }), [Refusal::OtherContent]);
    let seal = |rows, artifact| Evidence { seal: Some(Seal { rows, artifact }), ..whole.clone() };
    assert!(gate(&sealed, &seal(5, None)).is_empty());
    assert!(gate(&sealed, &seal(5, Some(archive.id))).is_empty());
    assert_eq!(gate(&sealed, &seal(4, None)), [Refusal::OtherSeal]);
    let other = ArtifactId::new(at("2026-01-02T00:00:00Z"));
    assert_eq!(gate(&sealed, &seal(5, Some(other))), [Refusal::OtherSeal]);
    let reference = Reference { constraint: "notes.fk".into(), rows: 2 };
    let referenced = Evidence { references: vec![reference.clone()], ..whole };
    assert_eq!(gate(&plain, &referenced), [Refusal::Referenced(reference)]);
    let free = Rule { archive: false, ..plain };
    assert!(gate(&free, &Evidence::default()).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(feature = "long") { 20_000 } else { 400 }))]

    /// A server is maintained now and then for years, by a clock that may also stand or step back.
    #[test]
    fn f94_whatever_the_clock_does_there_is_always_a_month_to_write_to(
        start in 1_704_067_200_i64..1_893_456_000,
        steps in prop::collection::vec((-40_i64..200, any::<bool>()), 1..30),
        premake in 1_u32..13,
        retention in prop::option::of(1_u32..40),
        odd in prop::collection::vec((0_i64..60, 1_i64..70, any::<bool>()), 0..4),
    ) {
        let mut now = DateTime::from_timestamp(start, 0).unwrap();
        let rule = Rule { premake, retention: retention.map(Span::months), ..rule(None) };
        let mut parent = parent(Vec::new());
        for (ago, days, whole) in odd {
            // Bounds that somebody else has made: days, at midnight or not, never one over another.
            let hours = if whole { 0 } else { 9 };
            let from = midnight((now - TimeDelta::days(ago * 30)).date_naive()) + TimeDelta::hours(hours);
            let to = from + TimeDelta::days(days);
            let free = parent.partitions.iter().all(|other| {
                other.bound.interval().is_some_and(|(low, high)| to <= low || from >= high)
            });
            if free {
                parent.partitions.push(partition(&format!("odd_{ago}"), Some(from), Some(to)));
            }
        }
        for (days, strays) in steps {
            now += TimeDelta::days(days);
            if strays {
                parent.strays.push(((now + TimeDelta::days(days)).date_naive(), 200_000));
            }
            let before = parent.clone();
            let todo = plan(&parent, &rule, now);
            prop_assert_eq!(&todo, &plan(&parent, &rule, now));
            let cut_off = rule.retention.map(|retention| retention.before(now));
            for retire in &todo.retire {
                prop_assert!(cut_off.is_some_and(|cut_off| retire.upper <= cut_off), "{:?} went too soon", retire);
            }
            apply(&mut parent, &todo);
            let mut taken: Vec<_> = parent.partitions.iter().filter_map(|p| p.bound.interval()).collect();
            taken.sort_unstable();
            prop_assert!(taken.windows(2).all(|pair| pair[0].1 <= pair[1].0), "overlap in {:?}", taken);
            for later in 0..=premake {
                let month = Month::of(now).plus(later);
                let hidden = todo.findings.iter().any(|finding| finding.code == "partition-bounds"
                    && finding.message.contains(&month.to_string()));
                let days = (month.upper() - month.lower()).num_days();
                let covered = (0..days).all(|day| {
                    let instant = month.lower() + TimeDelta::days(day);
                    taken.iter().any(|(from, to)| *from <= instant && instant < *to)
                });
                prop_assert!(covered || hidden, "{} is not there at {}", month, now);
            }
            prop_assert!(before.partitions.is_empty() || !parent.partitions.is_empty());
            // What follows from one plan is all there is to do; only where foreign bounds were in the way, and have gone,
            // a second run fills what they left.
            let again = plan(&parent, &rule, now);
            let in_the_way = todo.findings.iter().any(|finding| finding.code == "partition-bounds");
            prop_assert!(again.make.is_empty() || in_the_way, "made again: {:?}", again.make);
            prop_assert!(again.retire.is_empty() || todo.findings.iter().any(|f| f.code == "last-partition-stays"));
            apply(&mut parent, &again);
            let third = plan(&parent, &rule, now);
            prop_assert!(third.make.is_empty() && third.retire.is_empty(), "a third run has work: {:?}", third);
        }
    }
}
