//! WAL through a running agent: several segments at once, ahead of the archiver and of a recovery, and without it too.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dbagent::host::SystemClock;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::lsn::Timeline;
use dbagent::ops::wal::push::{Doors, Pushed};
use dbagent::ops::wal::ship::Shipper;
use dbagent::storage::MemoryStorage;

use crate::stage::agent::{RunningAgent, peak_memory};
use crate::stage::wal::WalSite;
use crate::wal_archiver::{Archive, code};

fn agent(archive: &Archive) -> RunningAgent {
    let agent = RunningAgent::start(archive.command(&["run"]));
    let socket = archive.root().join("state/agent.sock");
    archive.wait("the agent listens", || socket.exists());
    agent
}

/// From now on the command dies where it would do the work itself.
fn only_through_the_agent(archive: &Archive) {
    archive.script("push", &["wal", "push", "$1"], "export DBAGENT_FAILPOINT=wal.checked=kill");
}

#[cfg(feature = "failpoints")]
#[test]
fn an_archiver_is_served_by_the_agent() {
    let archive = Archive::new();
    let _agent = agent(&archive);
    only_through_the_agent(&archive);
    let segments: Vec<_> = (0..12).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[11]);
    for segment in &segments {
        assert_eq!(archive.objects_of(*segment), 2, "{:?}", archive.stored());
    }
    assert_eq!(archive.failed_count(), 0);
}

#[test]
fn a_backlog_is_shipped_ahead_of_the_archiver() {
    let archive = Archive::new();
    archive.write(&archive.server.directory().join("push.sh"), "exit 1");
    let segments: Vec<_> = (0..6).map(|_| archive.segment()).collect();
    archive.wait("the archiver fails", || archive.failed_count() > 0);
    let _agent = agent(&archive);
    let path = format!("pg_wal/{}", segments[0]);
    assert_eq!(code(&archive.run(&["wal", "push", &path])), 0);
    archive.wait("those after it are shipped too", || segments.iter().all(|each| archive.objects_of(*each) == 2));
    archive.script("push", &["wal", "push", "$1"], "");
    archive.wait_archived(segments[5]);
    assert!(segments.iter().all(|each| archive.objects_of(*each) == 2), "{:?}", archive.stored());
}

#[test]
fn f02_an_agent_that_is_killed_leaves_nothing_unarchived() {
    let archive = Archive::new();
    let mut all = Vec::new();
    for _ in 0..3 {
        let mut agent = agent(&archive);
        all.extend((0..4).map(|_| archive.segment()));
        agent.signal("KILL");
        agent.wait();
        all.push(archive.segment());
        archive.wait_archived(all.last().unwrap());
    }
    for segment in all {
        assert_eq!(archive.fetch(segment).0, Some(0), "{segment}");
    }
}

#[test]
fn a_refusal_of_the_agent_is_the_commands_own() {
    let archive = Archive::new();
    archive.wait_archived(archive.segment());
    let _agent = agent(&archive);
    let output = archive.run(&["wal", "push", "pg_wal/0000000100000000000000FE"]);
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("0000000100000000000000FE"), "{output:?}");
    assert_eq!(archive.fetch("0000000100000000000000FE").0, Some(1), "proven not there");
}

#[test]
fn an_agent_with_other_settings_than_the_command_s_is_passed_over() {
    let archive = Archive::new();
    let segment = archive.segment();
    archive.wait_archived(segment);
    let config = archive.root().join("dbagent.toml");
    let whole = std::fs::read_to_string(&config).unwrap();
    let without = whole.lines().filter(|line| !line.starts_with("decryption_key")).collect::<Vec<_>>().join("\n");
    archive.write(&config, without);
    let _agent = agent(&archive);
    assert_eq!(archive.fetch(segment).0, Some(126), "nobody has the key");
    archive.write(&config, whole);
    assert_eq!(archive.fetch(segment).0, Some(0), "the agent has no key, the command has");
    let elsewhere = archive.directory("elsewhere");
    let place = archive.root().join("state/elsewhere");
    let mut asking = archive.command(&["wal", "fetch", &segment.to_string(), place.to_str().unwrap()]);
    asking.env("DBAGENT_REPOSITORY__LOCAL__URL", format!("file://{}", elsewhere.display()));
    assert_eq!(code(&asking.output().unwrap()), 126, "the agent's repository has it, the command's is empty");
}

#[test]
fn segments_after_the_one_asked_for_are_fetched_ahead() {
    let archive = Archive::new();
    let segments: Vec<_> = (0..3).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[2]);
    let _agent = agent(&archive);
    let next = segments[1].to_string();
    let hide = |hidden: bool| {
        for path in archive.stored().iter().map(|path| archive.root().join(path)) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if hidden && name.starts_with(&next) {
                std::fs::rename(&path, path.with_file_name(format!("hidden-{name}"))).unwrap();
            } else if let (false, Some(shown)) = (hidden, name.strip_prefix("hidden-")) {
                std::fs::rename(&path, path.with_file_name(shown)).unwrap();
            }
        }
    };
    // The agent fetches ahead in its own time: what it was too late for is proven missing, and tried again.
    let ahead = (0..50).any(|round| {
        assert_eq!(archive.fetch(segments[0]).0, Some(0));
        std::thread::sleep(Duration::from_millis(20 * round));
        hide(true);
        let (code, place) = archive.fetch(segments[1]);
        hide(false);
        assert!(matches!(code, Some(0 | 1)), "{code:?}");
        code == Some(0) && {
            let original = archive.server.data_directory().join(format!("pg_wal/{next}"));
            assert_eq!(std::fs::read(place).unwrap(), std::fs::read(original).unwrap());
            true
        }
    });
    assert!(ahead, "the next segment was never there ahead of its time");
}

#[test]
fn a_recovery_through_many_segments_is_served_within_the_agents_memory() {
    let archive = Archive::with(16, &[]);
    let segments: Vec<_> = (0..16).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[15]);
    let agent = agent(&archive);
    for segment in &segments {
        let (code, place) = archive.fetch(segment);
        assert_eq!((code, std::fs::metadata(place).unwrap().len()), (Some(0), 16 << 20), "{segment}");
    }
    let peak = peak_memory(agent.id()).unwrap();
    assert!(peak <= 160 << 10, "{peak} KiB for 256 MiB of WAL");
}

async fn shipper(site: &Arc<WalSite>) -> (Shipper, dbagent::catalog::Repository) {
    let repository = site.repository("local", Arc::new(MemoryStorage::new())).await;
    let (site, doors) = (site.clone(), repository.clone());
    let open = move || -> futures_util::future::BoxFuture<'static, Result<Doors, Failure>> {
        let (repositories, options) = (vec![doors.clone()], site.options());
        let data_directory = Some(site.server.data_directory());
        Box::pin(async move { Ok(Doors { repositories, unopened: Vec::new(), options, data_directory, blocks: None }) })
    };
    (Shipper::new(Arc::new(open), Arc::new(SystemClock::new()), 2), repository)
}

/// A `pg_wal` of our own with these segments, all of them ready.
fn pg_wal(site: &WalSite, segments: &[dbagent::model::wal::SegmentName]) -> PathBuf {
    let folder = site.files.path().join("pg_wal");
    std::fs::create_dir_all(folder.join("archive_status")).unwrap();
    for segment in segments {
        std::fs::copy(site.path(segment), folder.join(segment.to_string())).unwrap();
        std::fs::write(folder.join(format!("archive_status/{segment}.ready")), "").unwrap();
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_a_file_that_was_changed_after_it_was_shipped_ahead_is_looked_at_again() {
    let site = Arc::new(WalSite::new());
    let (shipper, repository) = shipper(&site).await;
    let segments = site.segments(2);
    let folder = pg_wal(&site, &segments);
    let path = |at: usize| folder.join(segments[at].to_string());
    shipper.push(&path(0)).await.unwrap();
    while repository.wal_coverage(Timeline(1), site.size()).await.unwrap().ranges.first().map(|range| range.last)
        != Some(segments[1])
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut bytes = std::fs::read(path(1)).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(path(1), bytes).unwrap();
    let failure = shipper.push(&path(1)).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedForSafety, "{failure}");
    std::fs::copy(site.path(segments[1]), path(1)).unwrap();
    let pushed: Pushed = shipper.push(&path(1)).await.unwrap();
    assert_eq!((pushed.stored.len(), pushed.already.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_failed_ahead_of_its_time_is_tried_again_when_it_is_asked_for() {
    let site = Arc::new(WalSite::new());
    let (shipper, _) = shipper(&site).await;
    let segments = site.segments(2);
    let folder = pg_wal(&site, &segments);
    let second = folder.join(segments[1].to_string());
    std::fs::write(&second, "half").unwrap();
    shipper.push(&folder.join(segments[0].to_string())).await.unwrap();
    while shipper.is_busy() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::copy(site.path(segments[1]), &second).unwrap();
    assert_eq!(shipper.push(&second).await.unwrap().stored, ["local"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_files_at_once_may_be_the_first_of_a_new_repository() {
    let site = Arc::new(WalSite::new());
    let segments = site.segments(4);
    for _ in 0..10 {
        let repository = site.unclaimed("new", Arc::new(MemoryStorage::new()));
        // Each push claims it, as different processes would.
        let pushes =
            segments.iter().map(|segment| {
                let (site, repository, input) = (site.clone(), repository.clone(), site.input(*segment));
                async move {
                    dbagent::steps::wal::store(&input, &[repository], &site.options(), crate::stage::wal::now()).await
                }
            });
        for mut verdicts in futures_util::future::join_all(pushes).await {
            verdicts.pop().unwrap().1.unwrap();
        }
    }
}
