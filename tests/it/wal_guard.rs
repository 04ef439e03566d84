//! Tablespaces that a segment makes are seen before it is replayed, also where the record lies across two segments.

use std::path::{Path, PathBuf};

use dbagent::model::wal::SegmentName;
use dbagent::steps::wal::require_within;

use crate::stage::wal::WalSite;

/// Bytes of a segment that are left, up to the position where the log goes on.
fn left(site: &WalSite) -> u64 {
    let offset = site.server.sql("SELECT (pg_walfile_name_offset(pg_current_wal_insert_lsn())).file_offset").unwrap();
    site.size().bytes() - offset.parse::<u64>().unwrap()
}

/// What a copy that recovers has of a data directory while it fetches `segments`.
fn copy(site: &WalSite, segments: &[SegmentName]) -> PathBuf {
    let copy = site.files.path().join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    std::fs::create_dir_all(copy.join("pg_wal")).unwrap();
    std::fs::create_dir_all(copy.join("global")).unwrap();
    for name in ["PG_VERSION", "global/pg_control"] {
        std::fs::copy(site.server.data_directory().join(name), copy.join(name)).unwrap();
    }
    for segment in segments {
        std::fs::copy(site.path(segment), copy.join("pg_wal").join(segment.to_string())).unwrap();
    }
    copy
}

fn is_refused(segment: SegmentName, copy: &Path) -> bool {
    let file = copy.join("pg_wal/RECOVERYXLOG");
    std::fs::copy(copy.join("pg_wal").join(segment.to_string()), &file).unwrap();
    match require_within(segment, &file, copy) {
        Ok(()) => false,
        Err(failure) => {
            assert!(failure.message.contains("in use"), "{}", failure.full_message());
            true
        }
    }
}

#[test]
fn a_tablespace_is_seen_wherever_its_record_lies() {
    let site = WalSite::with(&[("autovacuum", "off"), ("bgwriter_lru_maxpages", "0"), ("checkpoint_timeout", "1d")]);
    let (mut crossed, mut made) = (0, 0);
    // Records of tablespaces all along the end of a segment: one of them lies across it, sooner or later.
    for round in 0..40 {
        let first: SegmentName = site.current();
        let fill = left(&site).saturating_sub(4000);
        site.server.sql(&format!("SELECT pg_logical_emit_message(false, 'fill', repeat('x', {fill}))")).unwrap();
        let mut names = Vec::new();
        while site.current() == first {
            let name = format!("ts_{round}_{}_{}", names.len(), "x".repeat(120));
            let location = site.server.directory().join(&name);
            std::fs::create_dir(&location).unwrap();
            dbagent::host::durable::give_to(&location, site.server.run_as()).unwrap();
            site.server.sql(&format!("CREATE TABLESPACE t{} LOCATION '{}'", names.len(), location.display())).unwrap();
            names.push(location);
        }
        made += names.len();
        site.server.sql("SELECT pg_switch_wal()").unwrap();
        let second = first.next(site.size()).unwrap();
        let copy = copy(&site, &[first, second]);
        // One after the other: only the last place is in use, and one of both segments must say so.
        let last = names.pop().unwrap();
        let hidden: Vec<_> = names.iter().map(|name| (name.clone(), name.with_extension("hidden"))).collect();
        hidden.iter().for_each(|(name, hidden)| std::fs::rename(name, hidden).unwrap());
        let refused = [is_refused(first, &copy), is_refused(second, &copy)];
        assert_eq!(refused.iter().filter(|refused| **refused).count(), 1, "{}: {refused:?}", last.display());
        std::fs::remove_file(copy.join("pg_wal").join(first.to_string())).unwrap();
        let alone = is_refused(second, &copy);
        crossed += usize::from(refused[1] && !alone);
        hidden.iter().for_each(|(name, hidden)| std::fs::rename(hidden, name).unwrap());
        for at in 0..=names.len() {
            site.server.sql(&format!("DROP TABLESPACE t{at}")).unwrap();
        }
        if crossed > 0 && round >= 3 {
            break;
        }
    }
    assert!(crossed > 0 && made >= 4, "none of {made} records lay across two segments");
}
