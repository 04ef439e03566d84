//! Chains from the shell: killed anywhere, broken, damaged, expired, read with stock tools.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::Desk;
use crate::increment::{QUOTED, contents};

/// A full dump and `hours` increments with changes between them; the state after each.
fn hours(desk: &Desk, hours: u32) -> Vec<Vec<String>> {
    desk.json(0, &["job", "run", "full"]);
    let mut states = vec![contents(&desk.site, "shop", &QUOTED)];
    for hour in 1..=hours {
        desk.site.ask(&format!("DELETE FROM orders WHERE id % 50 = {hour}; UPDATE customers SET name = 'hour {hour}' WHERE id % 20 = {hour}"));
        desk.json(0, &["job", "run", "incremental"]);
        states.push(contents(&desk.site, "shop", &QUOTED));
    }
    states
}

fn ids(desk: &Desk) -> Vec<String> {
    let list = desk.json(0, &["backup", "list", "--quiet"]);
    list["backups"].as_array().unwrap().iter().map(|backup| backup["id"].as_str().unwrap().to_owned()).collect()
}

/// The files of the increments, oldest first, that end with `ending`.
fn files(desk: &Desk, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![desk.site.root().join("local/incremental")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

fn databases(desk: &Desk) -> String {
    desk.site.ask("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")
}

#[test]
fn the_shell_restores_any_hour_and_verifies_the_chain() {
    let desk = Desk::new();
    let states = hours(&desk, 3);
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert_eq!(verified["verified"].as_array().unwrap().len(), 4);
    let list = desk.json(0, &["backup", "list"]);
    assert_eq!(list["backups"][3]["verb"], "increment");
    for (hour, id) in ids(&desk).iter().enumerate() {
        let name = format!("hour_{hour}");
        desk.json(0, &["restore", "--database", "shop", "--backup", id, "--to-database", &name]);
        assert_eq!(contents(&desk.site, &name, &QUOTED), states[hour], "hour {hour}");
    }
    let shown = desk.json(0, &["backup", "show", &ids(&desk)[1]]);
    let until = shown["copies"][0]["manifest"]["source"]["taken"].as_str().unwrap();
    desk.json(0, &["restore", "--database", "shop", "--until", until, "--to-database", "until"]);
    assert_eq!(contents(&desk.site, "until", &QUOTED), states[1]);
    desk.json(15, &["backup", "delete", &ids(&desk)[1], "--yes"]);
    let expired =
        desk.command(&["expire", "--yes", "--json"]).env("DBAGENT_AGENT__EXPIRE_GRACE", "0 seconds").output().unwrap();
    assert!(expired.status.success());
    assert_eq!(ids(&desk).len(), 4, "within 24 hours");
}

#[test]
fn stock_tools_read_an_increment() {
    let desk = Desk::new();
    hours(&desk, 1);
    let data = files(&desk, ".tar.gz.gpg").remove(0);
    let home = tempfile::tempdir().unwrap();
    let script = format!(
        "set -eu -o pipefail; cd '{}'; sha256sum --quiet -c ./*.sha256; gpg --batch --quiet --import '{}'; \
         gpg --batch --quiet -d '{}' | gunzip | tar -x -C \"$GNUPGHOME\"; cat \"$GNUPGHOME\"/*.public.customers.copy",
        data.parent().unwrap().display(),
        desk.site.root().join("restore-key.asc").display(),
        data.display()
    );
    let ran = Command::new("bash")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GNUPGHOME", home.path())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let rows = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(rows.lines().count(), 25);
    assert!(rows.lines().all(|row| row.contains("\thour 1\t")), "{rows}");
}

#[test]
fn a_chain_with_a_gap_is_seen_before_anything_is_written() {
    let desk = Desk::new();
    let states = hours(&desk, 3);
    let (all, before) = (ids(&desk), databases(&desk));
    std::fs::remove_file(&files(&desk, ".manifest.json")[1]).unwrap();
    let refused = desk.json(13, &["restore", "--database", "shop", "--backup", &all[3], "--to-database", "late"]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("which is not there"), "{message}");
    assert_eq!(databases(&desk), before);
    let verified = desk.json(13, &["backup", "verify"]);
    let good: Vec<bool> = verified["verified"].as_array().unwrap().iter().map(|one| one["good"] == true).collect();
    assert_eq!(good, [true, true, false], "only the one above the gap is broken");
    desk.json(0, &["restore", "--database", "shop", "--backup", &all[1], "--to-database", "early"]);
    assert_eq!(contents(&desk.site, "early", &QUOTED), states[1]);
    desk.site.ask("DELETE FROM orders WHERE id % 50 = 40");
    desk.json(0, &["job", "run", "incremental"]);
    let newest = desk.json(0, &["backup", "show", "latest"]);
    assert_eq!(newest["copies"][0]["manifest"]["parent"]["id"], all[1].as_str(), "it builds upon the last whole chain");
    desk.json(0, &["restore", "--database", "shop", "--to-database", "now"]);
    assert_eq!(contents(&desk.site, "now", &QUOTED), contents(&desk.site, "shop", &QUOTED));
}

#[test]
fn a_damaged_link_is_found_and_nothing_above_it_is_used() {
    let desk = Desk::new();
    hours(&desk, 2);
    let (all, before) = (ids(&desk), databases(&desk));
    let data = files(&desk, ".tar.gz.gpg").remove(0);
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    desk.json(13, &["restore", "--database", "shop", "--to-database", "late"]);
    assert_eq!(databases(&desk), before);
    desk.json(13, &["backup", "verify", &all[1]]);
    desk.json(13, &["backup", "verify", &all[2]]);
    desk.json(0, &["job", "run", "incremental"]);
    let newest = desk.json(0, &["backup", "show", "latest"]);
    assert_eq!(newest["copies"][0]["manifest"]["parent"]["id"], all[0].as_str(), "it builds upon what is whole");
    desk.json(0, &["restore", "--database", "shop", "--to-database", "now"]);
    assert_eq!(contents(&desk.site, "now", &QUOTED), contents(&desk.site, "shop", &QUOTED));
}

#[cfg(feature = "failpoints")]
#[test]
fn f01_killed_at_every_point_of_an_increment_the_next_one_loses_nothing() {
    use std::os::unix::process::ExitStatusExt as _;

    use dbagent::host::FailPoint;

    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    let mut fired = 0;
    let points = FailPoint::ALL.iter().map(|point| point.name());
    let points = points.filter(|name| name.starts_with("dump.") || name.starts_with("catalog."));
    for (at, point) in points.filter(|name| !["dump.mid_stream", "catalog.recorded"].contains(name)).enumerate() {
        desk.site.ask(&format!(
            "DELETE FROM orders WHERE id % 40 = {at}; UPDATE orders SET note = '{point}' WHERE id % 40 = 39"
        ));
        let before = ids_tolerating(&desk);
        let killed = desk
            .command(&["job", "run", "incremental"])
            .env("DBAGENT_FAILPOINT", format!("{point}=kill"))
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        fired += 1;
        let committed = usize::from(point == "catalog.manifest_put");
        assert_eq!(ids_tolerating(&desk), before + committed, "{point}");
    }
    assert!(fired >= 10, "only {fired} kills");
    desk.json(0, &["job", "run", "incremental"]);
    crate::base_expiry::end_leases(&desk);
    let cleared = desk.command(&["expire", "--yes"]).env("DBAGENT_AGENT__EXPIRE_GRACE", "0 seconds").output().unwrap();
    assert!(matches!(cleared.status.code(), Some(0 | 3)));
    desk.json(0, &["restore", "--database", "shop", "--to-database", "after"]);
    assert_eq!(contents(&desk.site, "after", &QUOTED), contents(&desk.site, "shop", &QUOTED));
}

#[cfg(feature = "failpoints")]
fn ids_tolerating(desk: &Desk) -> usize {
    let output = desk.command(&["backup", "list", "--json", "--quiet"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    value["backups"].as_array().unwrap().len()
}

#[cfg(feature = "failpoints")]
#[test]
fn f04_a_restore_killed_between_increments_leaves_no_database_of_that_name() {
    let desk = Desk::new();
    hours(&desk, 2);
    let restore = ["restore", "--database", "shop", "--to-database", "copy"];
    let killed = desk.command(&restore).env("DBAGENT_FAILPOINT", "restore.mid_increments=kill").output().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed.status), Some(9));
    assert!(!databases(&desk).split(' ').any(|name| name == "copy"));
    desk.json(0, &restore);
    assert_eq!(contents(&desk.site, "copy", &QUOTED), contents(&desk.site, "shop", &QUOTED));
}
