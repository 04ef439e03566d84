//! `restore --plan`: writes nothing, says what will be there, and does not promise what cannot work.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base_backup::backup;
use crate::base_expiry::leases;
use crate::cli::Desk;
use crate::recover::walk;
use crate::stage::archive::{self, switch};

/// Every file in the repository.
fn stored(desk: &Desk) -> Vec<PathBuf> {
    let mut stored = walk(&desk.site.root().join("local"));
    stored.sort();
    stored
}

fn message(refused: &Value) -> &str {
    refused["error"]["message"].as_str().unwrap()
}

/// The configuration names no key that decrypts, or this one.
fn with_key(desk: &Desk, key: Option<&str>) {
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let line = key.map(|key| format!("decryption_key = '{key}'\n")).unwrap_or_default();
    let changed = text.replace("decryption_key = 'restore-key.asc'\n", &line);
    assert_ne!(changed, text);
    std::fs::write(&desk.config, changed).unwrap();
}

/// A desk with a dump and an increment of a few rows.
fn incremented() -> Desk {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    desk.site
        .ask("UPDATE orders SET note = 'x' WHERE id <= 10; INSERT INTO customers (email) VALUES ('late@example.org')");
    let run = desk.json(0, &["job", "run", "incremental"]);
    assert_eq!(run["run"]["end"]["result"]["done"]["verdict"], "ok", "{run}");
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
    desk
}

#[test]
fn a_plan_of_a_chain_writes_nothing_and_says_the_rows_that_will_be_there() {
    let desk = incremented();
    let before = stored(&desk);
    let database = ["restore", "--database", "shop", "--to-database", "zz"];
    let planned = desk.json(0, &[&database[..], &["--plan"]].concat())["would_restore"].clone();
    assert_eq!(planned["rows"], 501 + 3000 + 4000 + 50, "{planned}");
    assert_eq!(planned["not_exact"], Value::Array(Vec::new()), "{planned}");
    for mode in [&[][..], &["--mode", "merge"], &["--mode", "replace"]] {
        let counted = desk.json(0, &[&["restore", "--table", "orders", "--plan"], mode].concat());
        let missing = if mode.is_empty() { 3000 } else { 0 };
        assert_eq!((&counted["missing"], &counted["extra"]), (&missing.into(), &0.into()), "{counted}");
    }
    desk.json(10, &["restore", "--table", "nobody", "--plan"]);
    assert_eq!(stored(&desk), before, "a plan leaves nothing in the repository, no lease either");
    assert_eq!(desk.site.ask("SELECT count(*) FROM pg_database WHERE datname = 'zz'"), "0");

    let restored = desk.json(0, &database);
    assert_eq!(restored["rows"], planned["rows"], "{restored}");
    assert_eq!(leases(&desk), Vec::<PathBuf>::new());
}

#[test]
fn a_plan_without_the_key_fails_as_the_restore_would() {
    let desk = incremented();
    let other = crate::stage::site::Site::other_secret();
    std::fs::write(desk.site.root().join("other.asc"), other).unwrap();
    private(&desk.site.root().join("other.asc"));
    let text = std::fs::read_to_string(&desk.config).unwrap();
    for key in [None, Some("other.asc"), Some("absent.asc")] {
        with_key(&desk, key);
        for what in [&["restore", "--database", "shop", "--to-database", "zz"][..], &["restore", "--table", "orders"]] {
            let plan = desk.json(12, &[what, &["--plan"]].concat());
            let real = desk.json(12, what);
            assert_eq!(plan["error"]["hint"], real["error"]["hint"], "{plan} {real}");
            assert_eq!(plan["error"]["code"], real["error"]["code"], "{plan} {real}");
        }
        let told = desk.run(&["restore", "--database", "shop", "--to-database", "zz", "--plan"]);
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.contains("would restore 7551 rows"), key != Some("absent.asc"), "{told}");
        assert!(told.contains("error: failed to"), "{told}");
        std::fs::write(&desk.config, &text).unwrap();
    }
    assert_eq!(leases(&desk), Vec::<PathBuf>::new());
}

fn private(path: &Path) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn a_plan_of_a_recovery_that_cannot_be_fails_as_the_recovery_would() {
    let desk = archive::desk();
    backup(&desk);
    switch(&desk);
    let before = stored(&desk);
    // A file system without any room.
    let full = desk.json(15, &["restore", "--to", "/proc/copy", "--latest", "--plan"]);
    assert!(message(&full).contains("0 B are free"), "{full}");
    let told = desk.run(&["restore", "--to", "/proc/copy", "--latest", "--plan"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("all stored") && told.contains("0 B are free"), "the plan is shown all the same: {told}");
    let root = desk.site.root().display().to_string();
    let taken = desk.json(15, &["restore", "--to", &root, "--latest", "--plan"]);
    assert!(message(&taken).contains("it is not empty"), "{taken}");

    let to = desk.site.root().join("c").display().to_string();
    let directory = ["restore", "--to", &to, "--latest"];
    let table = ["restore", "--table", "customers", "--latest"];
    assert_eq!(desk.json(0, &[&directory[..], &["--start", "--plan"]].concat())["plan"]["directory"], *to);
    desk.json(0, &[&table[..], &["--plan"]].concat());
    let there = desk.json(15, &[&table[..], &["--as", "orders", "--plan"]].concat());
    assert!(message(&there).contains("there is one already"), "{there}");
    let text = std::fs::read_to_string(&desk.config).unwrap();
    desk.configure("[restore]\nscratch_directory = '/proc'\n");
    let full = desk.json(15, &[&table[..], &["--plan"]].concat());
    assert!(message(&full).contains("0 B are free"), "{full}");
    std::fs::write(&desk.config, text).unwrap();

    with_key(&desk, None);
    for what in [&directory, &table] {
        let plan = desk.json(12, &[&what[..], &["--plan"]].concat());
        assert!(message(&plan).contains("it is encrypted, and no secret key was given"), "{plan}");
    }
    let real = desk.json(12, &directory);
    assert!(message(&real).contains("it is encrypted, and no secret key was given"), "{real}");
    assert!(!Path::new(&to).exists(), "nothing was written that the missing key makes useless");
    assert_eq!(stored(&desk), before);
}

#[test]
fn a_list_does_not_say_that_there_is_nothing_where_it_is_not_known() {
    let desk = Desk::new();
    let said = |arguments: &[&str]| String::from_utf8(desk.run(arguments).stdout).unwrap();
    assert_eq!(said(&["backup", "list"]), "no backups yet; `dbagent job run NAME` makes one\n");
    assert_eq!(
        said(&["backup", "list", "--job", "full"]),
        "no backups of the job full yet; `dbagent job run full` makes one\n"
    );
    let local = desk.site.root().join("local");
    std::fs::rename(&local, desk.site.root().join("away")).unwrap();
    let lost = said(&["backup", "list"]);
    assert_eq!(lost, "which backups there are is not known: cannot read repository local\n");
    std::fs::create_dir(desk.site.root().join("second")).unwrap();
    desk.configure(&format!("[repository.second]\nurl = 'file://{}/second'\n", desk.site.root().display()));
    let half = said(&["backup", "list"]);
    assert_eq!(half, "no backups in the repositories that could be read; what is in local is not known\n");
}
