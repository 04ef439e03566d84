//! Recovery targets other than instants and positions, on a real server.

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::recover::{Copy, commit, ledger};
use crate::stage::archive::{self, switch};

/// Writes a row, and gives the transaction's number.
fn commit_with_number(desk: &Desk, id: u32) -> String {
    desk.site.ask(&format!(
        "WITH row AS (INSERT INTO ledger VALUES ({id}, 'row') RETURNING 1) SELECT pg_current_xact_id() FROM row"
    ))
}

#[test]
fn a_transaction_and_a_restore_point_are_targets_and_exclusive_leaves_the_transaction_out() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    commit(&desk, 1);
    let number = commit_with_number(&desk, 2);
    desk.site.ask("SELECT pg_create_restore_point('before the release')");
    commit(&desk, 3);
    switch(&desk);
    let rows = |arguments: &[&str]| {
        let copy = Copy::restore(&desk, "c", arguments);
        assert_eq!(copy.started["state"], "paused", "{arguments:?}");
        copy.rows()
    };
    assert_eq!(rows(&["--target-xid", &number]), [1, 2]);
    assert_eq!(rows(&["--target-xid", &number, "--exclusive"]), [1]);
    assert_eq!(rows(&["--target-name", "before the release"]), [1, 2]);
}

#[test]
fn a_copy_that_shuts_down_at_its_target_is_gone_when_that_is_said() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    commit(&desk, 1);
    desk.site.ask("SELECT pg_create_restore_point('here')");
    commit(&desk, 2);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--target-name", "here", "--action", "shutdown"]);
    assert_eq!(copy.started["state"], "shut down");
    assert!(!copy.directory.join("postmaster.pid").exists(), "it still runs");
}
