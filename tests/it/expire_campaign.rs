//! Real prunes over random histories of base backups, full and incremental, in two repositories with rules of their own:
//! after each of them every base backup that is kept still leads to every moment after it.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{Acknowledged, Copy, commit, ledger, place};
use crate::stage::archive::{self, rewrite_plan, switch};

const REPOSITORIES: [&str; 2] = ["far", "local"];
const RULES: [&str; 5] =
    ["{ count = 1 }", "{ count = 2 }", "{ chains = 1 }", "{ chains = 2 }", "{ window = '20 seconds' }"];

struct Campaign {
    desk: Desk,
    random: StdRng,
    rows: Vec<Acknowledged>,
    /// How many rows there were when a base backup was made.
    rows_before: BTreeMap<String, usize>,
    expired: u64,
    planned: u64,
    restored: u64,
}

impl Campaign {
    fn new(seed: u64) -> Self {
        let desk = archive::desk();
        let far = desk.site.directory("far");
        desk.configure(&format!(
            "[repository.far]\nurl = 'file://{}'\n[agent]\nexpire_grace = '1 ms'\n",
            far.display()
        ));
        archive::give(&desk);
        ledger(&desk);
        let random = StdRng::seed_from_u64(seed);
        Self { desk, random, rows: Vec::new(), rows_before: BTreeMap::new(), expired: 0, planned: 0, restored: 0 }
    }

    fn rule(&mut self) -> &'static str {
        RULES[self.random.random_range(0..RULES.len())]
    }

    /// The rules for the next prune.
    fn choose_rules(&mut self) {
        let (far, local) = (self.rule(), self.rule());
        let keep = format!("keep = {{ far = {far}, local = {local} }}\n");
        let job = |name: &str, kind: &str, day: u32| {
            format!("[job.{name}]\nverb = 'base-backup'\nkind = '{kind}'\nschedule = '0 2 {day} 2 *'\n{keep}")
        };
        let (full, incremental) = (job("base", "full", 28), job("base-incremental", "incremental", 27));
        let expire = "[job.expire]\nverb = 'expire'\nschedule = '0 5 * * *'\n";
        rewrite_plan(&self.desk, |_| format!("description = 'the shop'\n{full}{incremental}{expire}"));
    }

    fn known(&self) -> Vec<String> {
        let mut all: Vec<String> = REPOSITORIES.iter().flat_map(|name| bases_in(&self.desk, name)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Base backups that are listed, in both repositories.
    fn listed(&self) -> usize {
        REPOSITORIES.iter().map(|name| bases_in(&self.desk, name).len()).sum()
    }

    /// A base backup, and some rows after it.
    fn generation(&mut self, job: &str) {
        let rows = self.rows.len();
        let run = self.desk.json(0, &["job", "run", job]);
        assert_eq!(run["run"]["end"]["result"]["done"]["verdict"], "ok", "{run}");
        for id in self.known() {
            self.rows_before.entry(id).or_insert(rows);
        }
        for _ in 0..self.random.random_range(1..4) {
            self.rows.push(commit(&self.desk, u32::try_from(self.rows.len()).unwrap() + 1));
            if self.random.random_ratio(1, 2) {
                switch(&self.desk);
            }
        }
        switch(&self.desk);
    }

    fn prune(&mut self) {
        let before = self.listed();
        let outcome = self.desk.json(0, &["expire", "--yes"])["outcome"].clone();
        assert_eq!(outcome["verdict"], "ok", "{outcome}");
        self.expired += (before - self.listed()) as u64;
        for name in REPOSITORIES {
            let kept = bases_in(&self.desk, name);
            assert!(!kept.is_empty(), "{name}: {outcome}");
            let listed = self.desk.run(&["wal", "list"]);
            assert_eq!(listed.status.code(), Some(0), "{}", String::from_utf8_lossy(&listed.stdout));
            for id in &kept {
                let (rows, last) = (self.rows_before[id], self.rows.len() - 1);
                for row in [rows, self.random.random_range(rows..=last), last] {
                    self.require_planned(name, id, row);
                }
            }
        }
        let name = REPOSITORIES[self.random.random_range(0..2)];
        let kept = bases_in(&self.desk, name);
        let id = &kept[self.random.random_range(0..kept.len())];
        let row = self.random.random_range(self.rows_before[id]..self.rows.len());
        let at = self.rows[row].at.clone();
        let copy = Copy::restore(&self.desk, "c", &["--backup", id, "--repository", name, "--target-time", &at]);
        let expected: Vec<u32> = self.rows[..=row].iter().map(|row| row.id).collect();
        assert_eq!(copy.rows(), expected, "from {id} in {name} to row {row}");
        self.restored += 1;
    }

    fn require_planned(&mut self, repository: &str, id: &str, row: usize) {
        let to = place(&self.desk, "p").display().to_string();
        let at = &self.rows[row].at;
        let plan = ["restore", "--to", &to, "--plan", "--backup", id, "--repository", repository, "--target-time", at];
        assert_eq!(self.desk.json(0, &plan)["plan"]["backup"], *id);
        self.planned += 1;
    }
}

/// Prunes so often; tells what came of it.
fn prunes(seed: u64, count: u32) -> String {
    let mut campaign = Campaign::new(seed);
    campaign.choose_rules();
    // The newest two of a job never go: only then there is something to expire.
    (0..3).for_each(|_| campaign.generation("base"));
    for _ in 0..count {
        campaign.choose_rules();
        for _ in 0..campaign.random.random_range(1..4) {
            let job = if campaign.random.random_ratio(1, 2) { "base" } else { "base-incremental" };
            campaign.generation(job);
        }
        campaign.prune();
    }
    let Campaign { expired, planned, restored, rows_before, .. } = &campaign;
    assert!(*expired >= u64::from(count) / 3, "{expired} base backups went in {count} prunes");
    let made = rows_before.len();
    format!("{count} prunes: {made} base backups made, {expired} expired, {planned} plans, {restored} restores")
}

#[test]
fn g5_real_prunes_leave_every_kept_base_backup_restorable() {
    println!("{}", prunes(5, 3));
}

#[cfg(feature = "long")]
#[test]
fn g5_long_two_hundred_real_prunes_first_fifty() {
    println!("{}", prunes(6, 50));
}

#[cfg(feature = "long")]
#[test]
fn g5_long_two_hundred_real_prunes_second_fifty() {
    println!("{}", prunes(7, 50));
}

#[cfg(feature = "long")]
#[test]
fn g5_long_two_hundred_real_prunes_third_fifty() {
    println!("{}", prunes(8, 50));
}

#[cfg(feature = "long")]
#[test]
fn g5_long_two_hundred_real_prunes_fourth_fifty() {
    println!("{}", prunes(9, 50));
}
