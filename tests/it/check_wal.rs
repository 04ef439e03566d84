//! `check` follows a segment out and back: what the archiver archived last comes back from the repository, or a line says not.

use serde_json::Value;

use crate::cli::Desk;
use crate::recover::walk;
use crate::stage::archive::{self, rewrite_plan, switch};

/// The status and the message of the line.
fn line(desk: &Desk, arguments: &[&str]) -> (String, String) {
    let output = desk.command(&[&["check", "--json"], arguments].concat()).output().unwrap();
    let checks: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = checks["checks"].as_array().unwrap().clone();
    let found = lines.iter().find(|line| line["check"] == "wal-round-trip").unwrap_or_else(|| panic!("{checks}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("status"), text("message"))
}

fn stored(desk: &Desk, segment: &str) -> std::path::PathBuf {
    let files = walk(&desk.site.root().join("local/wal"));
    let is_it = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(segment) && !name.contains(".json")
    };
    files.iter().find(is_it).unwrap().clone()
}

#[test]
fn what_was_archived_last_comes_back_or_a_line_fails() {
    let desk = archive::desk();
    rewrite_plan(&desk, |plan| plan + "[job.wal-sync]\nverb = 'wal-sync'\nschedule = '*/10 * * * *'\n");
    switch(&desk);
    let before = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let (status, message) = line(&desk, &[]);
    assert!(status == "ok" && message.contains("decrypted, equal to what was pushed"), "{message}");
    assert_eq!(
        desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"),
        before,
        "nothing is switched unasked"
    );

    desk.site.ask("SELECT pg_logical_emit_message(false, 'test', 'something to archive')");
    let (status, message) = line(&desk, &["--switch-wal"]);
    assert!(status == "ok" && message.contains(&before), "the segment {before} itself: {message}");

    let path = stored(&desk, &before);
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let keyless = text.replace("decryption_key = 'restore-key.asc'\n", "");
    assert_ne!(keyless, text);
    for (configuration, good) in [(&text, "decrypted"), (&keyless, "as stored; no key here")] {
        std::fs::write(&desk.config, configuration).unwrap();
        std::fs::write(&path, &damaged).unwrap();
        let (status, message) = line(&desk, &[]);
        assert!(status == "fail" && message.contains(&before), "{message}");
        std::fs::write(&path, &bytes).unwrap();
        let (status, message) = line(&desk, &[]);
        assert!(status == "ok" && message.contains(good), "{message}");
    }
    for file in walk(&desk.site.root().join("local/wal")) {
        if file.file_name().unwrap().to_string_lossy().starts_with(&before) {
            std::fs::remove_file(file).unwrap();
        }
    }
    let (status, message) = line(&desk, &[]);
    assert!(status == "fail" && message.contains("does not have it"), "{message}");
}
