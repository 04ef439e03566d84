//! The commands as a real PostgreSQL calls them: its archiver, its recovery, and what they make of our exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

#[cfg(feature = "failpoints")]
use dbagent::host::FailPoint;
use dbagent::model::wal::SegmentName;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};

use crate::stage::standby::Standby;

/// Longest wait for the archiver: it tries again after one to sixty seconds.
const PATIENCE: Duration = Duration::from_secs(100);

/// A server that archives with our binary, and everything that takes, owned by the server's user.
pub struct Archive {
    pub server: ScratchServer,
    files: tempfile::TempDir,
    owner: Option<(u32, u32)>,
}

impl Archive {
    pub fn new() -> Self {
        Self::with(1, &[])
    }

    /// With segments of so many MiB and these settings.
    pub fn with(megabytes: u32, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("archive_mode".to_owned(), "on".to_owned()),
            ("archive_command".to_owned(), "sh ../push.sh \"%p\" # dbagent wal push".to_owned()),
            ("wal_level".to_owned(), "replica".to_owned()),
        ];
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let initdb = vec![format!("--wal-segsize={megabytes}")];
        let server =
            ScratchServer::start(ScratchOptions { settings: all, initdb, ..ScratchOptions::default() }).unwrap();
        let owner = server.run_as();
        let files = dbagent::host::durable::temporary_directory("dbagent-wal-", &std::env::temp_dir(), owner).unwrap();
        let archive = Self { server, files, owner };
        archive.directory("local");
        archive.directory("state");
        archive.keys();
        let plan = "[job.wal-sync]\nverb = 'wal-sync'\nschedule = '*/10 * * * *'\n";
        archive.write(&archive.root().join("plan.toml"), plan);
        archive.configure("");
        archive.script("push", &["wal", "push", "$1"], "");
        archive
    }

    pub fn root(&self) -> &Path {
        self.files.path()
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.root().join(name);
        std::fs::create_dir(&path).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&path, private).unwrap();
        self.give(&path);
        path
    }

    fn give(&self, path: &Path) {
        dbagent::host::durable::give_to(path, self.owner).unwrap();
    }

    pub fn write(&self, path: &Path, bytes: impl AsRef<[u8]>) {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        self.give(path);
    }

    fn keys(&self) {
        let now = crate::stage::wal::now();
        let pair = dbagent::pipeline::openpgp::generate_encryption_pair(
            "test backup",
            dbagent::pipeline::openpgp::Profile::Gnupg,
            now,
        )
        .unwrap();
        let signing = dbagent::pipeline::openpgp::generate_signing_key("test signing", now).unwrap();
        for (name, bytes) in
            [("backup.asc", &pair.public), ("restore.asc", &pair.secret), ("signing.asc", &signing.secret)]
        {
            self.write(&self.root().join(name), bytes);
        }
        self.write(&self.root().join("fingerprint"), &pair.fingerprint);
    }

    /// Writes the configuration, with `more` at its end.
    pub fn configure(&self, more: &str) {
        let root = self.root().display();
        let fingerprint = std::fs::read_to_string(self.root().join("fingerprint")).unwrap();
        let text = format!(
            "cluster = 'shop'\nplan = 'plan.toml'\nstate_dir = '{root}/state'\n[repository.local]\nurl = 'file://{root}/local'\n\
             [encryption]\nrecipients = ['{root}/backup.asc']\nfingerprints = ['{fingerprint}']\n\
             signing_key = '{root}/signing.asc'\ndecryption_key = '{root}/restore.asc'\n\
             [wal]\nvolume_warning = 100\nvolume_critical = 100\n[postgres]\nhost = '{}'\nport = {}\nuser = 'postgres'\ndatabase = 'postgres'\n{more}",
            self.server.directory().display(),
            self.server.port(),
        );
        self.write(&self.root().join("dbagent.toml"), text);
    }

    /// A script beside the data directory that runs our binary with `words`; `before` goes in front.
    pub fn script(&self, name: &str, words: &[&str], before: &str) {
        let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let config = self.root().join("dbagent.toml");
        let binary = env!("CARGO_BIN_EXE_dbagent");
        let text = format!("{before}\nexec '{binary}' --config '{}' {}\n", config.display(), words.join(" "));
        let path = self.server.directory().join(format!("{name}.sh"));
        let next = path.with_extension("next");
        self.write(&next, text);
        std::fs::rename(next, path).unwrap();
    }

    /// The binary as the server's user, in the data directory.
    pub fn command(&self, words: &[&str]) -> Command {
        use std::os::unix::process::CommandExt as _;

        let mut command = Command::new(env!("CARGO_BIN_EXE_dbagent"));
        command.env_clear().env("PATH", "/usr/bin:/bin").current_dir(self.server.data_directory()).stdin(Stdio::null());
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command.arg("--config").arg(self.root().join("dbagent.toml")).args(words);
        command
    }

    pub fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Fills one segment and gives its name.
    pub fn segment(&self) -> SegmentName {
        self.server.sql("CREATE TABLE IF NOT EXISTS filler (line text)").unwrap();
        let name = self.server.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)").unwrap().parse().unwrap();
        self.server.sql("INSERT INTO filler SELECT md5(n::text) FROM generate_series(1, 200) n").unwrap();
        self.server.sql("SELECT pg_switch_wal()").unwrap();
        name
    }

    pub fn wait(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {:?}\n{}", self.stored(), self.server.log().join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_archived(&self, name: impl ToString) {
        let done = self.server.data_directory().join(format!("pg_wal/archive_status/{}.done", name.to_string()));
        self.wait("the archiver is not content", || done.exists());
    }

    /// Every object below `wal/`, by its path.
    pub fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.root().join("local")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => found.push(path.strip_prefix(self.root()).unwrap().display().to_string()),
                }
            }
        }
        found.retain(|path| path.starts_with("local/wal/"));
        found.sort();
        found
    }

    pub fn failed_count(&self) -> u64 {
        self.server.sql("SELECT failed_count FROM pg_stat_archiver").unwrap().parse().unwrap()
    }

    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    pub fn objects_of(&self, segment: SegmentName) -> usize {
        self.stored().iter().filter(|path| path.contains(&format!("/{segment}"))).count()
    }

    pub fn fetch(&self, name: impl ToString) -> (Option<i32>, PathBuf) {
        let place = self.root().join("state/fetched");
        let _ = std::fs::remove_file(&place);
        let output = self.run(&["wal", "fetch", &name.to_string(), place.to_str().unwrap()]);
        (output.status.code(), place)
    }
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn a_real_archiver_stores_every_segment_and_a_fetch_gives_it_back() {
    let archive = Archive::new();
    let segments: Vec<_> = (0..3).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[2]);
    for segment in &segments {
        assert_eq!(archive.objects_of(*segment), 2, "{:?}", archive.stored());
        let (code, place) = archive.fetch(segment);
        assert_eq!(code, Some(0));
        let original = archive.server.data_directory().join(format!("pg_wal/{segment}"));
        assert_eq!(std::fs::read(place).unwrap(), std::fs::read(original).unwrap());
    }
    assert_eq!(archive.failed_count(), 0);
    let again = archive.run(&["wal", "push", &format!("pg_wal/{}", segments[0])]);
    assert_eq!((code(&again), again.stdout.len(), again.stderr.len()), (0, 0, 0), "{again:?}");
    assert_eq!(archive.objects_of(segments[0]), 2);
}

#[test]
fn f65_segments_of_other_sizes_are_archived_too() {
    for megabytes in [16, 64] {
        let archive = Archive::with(megabytes, &[]);
        let segment = archive.segment();
        archive.wait_archived(segment);
        let (code, place) = archive.fetch(segment);
        assert_eq!((code, std::fs::metadata(place).unwrap().len()), (Some(0), u64::from(megabytes) << 20));
    }
}

#[test]
fn a_failing_push_is_counted_and_tried_again() {
    let archive = Archive::new();
    archive.write(&archive.root().join("dbagent.toml"), "nonsense");
    let segment = archive.segment();
    archive.wait("failures are counted", || archive.failed_count() > 0);
    assert!(archive.stored().is_empty());
    archive.configure("");
    archive.wait_archived(segment);
    assert_eq!(archive.objects_of(segment), 2);
}

#[test]
fn f18_a_backlog_is_told_at_two_thresholds_and_nothing_of_it_is_ever_dropped() {
    let archive = Archive::with(1, &[("archive_timeout", "60s"), ("max_wal_size", "2MB"), ("min_wal_size", "2MB")]);
    archive.wait_archived(archive.segment());
    archive.write(&archive.server.directory().join("push.sh"), "exit 1 # wal push");
    let severities = |critical: &str, volume: &str| {
        let mut command = archive.command(&["wal", "sync", "--json"]);
        command.env("DBAGENT_WAL__BACKLOG_WARNING", "3MB").env("DBAGENT_WAL__BACKLOG_CRITICAL", critical);
        command.env("DBAGENT_WAL__VOLUME_WARNING", "1").env("DBAGENT_WAL__VOLUME_CRITICAL", volume);
        let told: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
        let findings = told["findings"].as_array().unwrap().clone();
        ["archive-backlog", "pg-wal-volume"].map(|code| {
            let found = findings.iter().find(|each| each["code"] == code);
            found.map(|each| each["severity"].as_str().unwrap().to_owned())
        })
    };
    let told = |backlog: Option<&str>, volume: &str| [backlog.map(str::to_owned), Some(volume.to_owned())];
    let segments: Vec<_> = (0..6).map(|_| archive.segment()).collect();
    archive.wait("the archiver fails", || archive.failed_count() > 0);
    assert_eq!(severities("100MB", "100"), told(Some("warning"), "warning"));
    assert_eq!(severities("6MB", "1"), told(Some("critical"), "critical"));
    archive.server.sql("CHECKPOINT").unwrap();
    for segment in &segments {
        let waits = archive.server.data_directory().join(format!("pg_wal/{segment}"));
        assert!(waits.exists(), "{segment} was dropped");
    }
    archive.script("push", &["wal", "push", "$1"], "");
    archive.wait_archived(archive.segment());
    assert!(segments.iter().all(|segment| archive.fetch(segment).0 == Some(0)));
    assert_eq!(severities("6MB", "1"), told(None, "critical"));
}

#[test]
fn f68_every_way_to_fail_has_the_code_that_postgresql_understands() {
    let archive = Archive::new();
    let segment = archive.segment();
    archive.wait_archived(segment);
    let name = segment.to_string();
    let path = format!("pg_wal/{segment}");
    assert_eq!(archive.fetch("0000000100000000000000FF").0, Some(1), "proven not there");
    assert_eq!(archive.fetch("00000002.history").0, Some(1));
    assert_eq!(archive.fetch("RECOVERYXLOG").0, Some(126));
    for (push, fetch) in [
        (&["wal", "push"][..], &["wal", "fetch", "x"][..]),
        (&["wal", "push", "--nonsense"], &["wal", "fetch", &name, "/nonexistent/place"]),
        (&["wal", "push", "pg_wal/0000000100000000000000FE"], &["wal", "fetch", &name, "x", "y"]),
    ] {
        assert_eq!((code(&archive.run(push)), code(&archive.run(fetch))), (1, 126), "{push:?} {fetch:?}");
    }
    let broken = |what: &str| {
        let (push, fetch) = (archive.run(&["wal", "push", &path]), archive.fetch(segment));
        assert_eq!((code(&push), fetch.0), (1, Some(126)), "{what}: {push:?}");
        assert!(!fetch.1.exists(), "{what}");
    };
    let moved = |name: &str, during: &dyn Fn()| {
        let (from, to) = (archive.root().join(name), archive.root().join(format!("{name}.away")));
        std::fs::rename(&from, &to).unwrap();
        during();
        std::fs::rename(to, from).unwrap();
    };
    moved("local", &|| broken("no repository"));
    moved("local", &|| {
        archive.directory("local");
        assert_eq!(archive.fetch(segment).0, Some(126), "an empty mount point");
        std::fs::remove_dir(archive.root().join("local")).unwrap();
    });
    moved("signing.asc", &|| broken("no signing key"));
    moved("restore.asc", &|| assert_eq!(archive.fetch(segment).0, Some(126), "no decryption key"));
    moved("dbagent.toml", &|| broken("no configuration"));
    assert_eq!(archive.fetch(segment).0, Some(0));
}

#[test]
fn f58_a_damaged_segment_is_not_archived() {
    let archive = Archive::new();
    let segment = archive.segment();
    archive.wait_archived(segment);
    let forged = archive.root().join("state").join("000000010000000000000077");
    let bytes = std::fs::read(archive.server.data_directory().join(format!("pg_wal/{segment}"))).unwrap();
    archive.write(&forged, bytes);
    let more = format!("data_directory = '{}'\n", archive.server.data_directory().display());
    archive.configure(&more);
    let output = archive.run(&["wal", "push", forged.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not where its name puts it"), "{output:?}");
    assert_eq!(archive.objects_of("000000010000000000000077".parse().unwrap()), 0);
}

#[cfg(feature = "failpoints")]
#[test]
fn f02_killed_anywhere_the_archiver_goes_on_and_exactly_one_copy_counts() {
    let archive = Archive::new();
    let log = archive.root().join("state/fired");
    for point in [FailPoint::WalChecked, FailPoint::WalObjectPut, FailPoint::WalRecordPut] {
        let once = format!(
            "if [ ! -e '{0}' ]; then export DBAGENT_FAILPOINT={1}=kill DBAGENT_FAILPOINT_LOG='{0}'; fi",
            log.display(),
            point.name()
        );
        // The archiver itself would die of the signal and come back a minute later.
        let (binary, config) = (env!("CARGO_BIN_EXE_dbagent"), archive.root().join("dbagent.toml"));
        let text = format!("{once}\n'{binary}' --config '{}' wal push \"$1\" || exit 1\n", config.display());
        archive.write(&archive.server.directory().join("push.sh"), text);
        let segment = archive.segment();
        archive.wait("the fault fires", || log.exists());
        archive.wait_archived(segment);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{} Kill\n", point.name()));
        std::fs::remove_file(&log).unwrap();
        assert_eq!(archive.objects_of(segment), 2, "{}: {:?}", point.name(), archive.stored());
        assert_eq!(archive.fetch(segment).0, Some(0));
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn f68_a_panic_is_a_failure_like_any_other() {
    let archive = Archive::new();
    let segment = archive.segment();
    archive.wait_archived(segment);
    let with = |point: FailPoint, words: &[&str]| {
        let log = archive.root().join("state/fired");
        let mut command = archive.command(words);
        command.env("DBAGENT_FAILPOINT", format!("{}=panic", point.name())).env("DBAGENT_FAILPOINT_LOG", &log);
        let code = code(&command.output().unwrap());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), format!("{} Panic\n", point.name()));
        std::fs::remove_file(log).unwrap();
        code
    };
    let place = archive.root().join("state/fetched");
    assert_eq!(with(FailPoint::WalChecked, &["wal", "push", &format!("pg_wal/{segment}")]), 1);
    let fetch = ["wal", "fetch", &segment.to_string(), place.to_str().unwrap()];
    assert_eq!(with(FailPoint::WalFetched, &fetch), 126);
    assert!(!place.exists());
}

/// PostgreSQL recovers from the archive alone, and stops instead of ending early when the archive cannot be asked.
#[test]
fn f68_recovery_stops_when_the_archive_cannot_be_asked() {
    let archive = Archive::new();
    let mut copy = Copy::of(&archive);
    let last = archive.segment();
    archive.server.sql("CREATE TABLE after AS SELECT 1 AS one").unwrap();
    let end = archive.segment();
    archive.wait_archived(end);
    let (here, away) = (archive.root().join("local"), archive.root().join("local.away"));
    std::fs::rename(&here, &away).unwrap();
    let said = copy.recover(&archive);
    assert!(!said.contains("database system is ready"), "it ended early:\n{said}");
    assert!(said.contains("could not restore file"), "{said}");
    std::fs::rename(&away, &here).unwrap();
    let said = copy.recover(&archive);
    assert!(said.contains("archive recovery complete"), "{said}");
    assert!(said.contains(&format!("restored log file \"{last}\"")), "{said}");
}

/// Two servers archive the same timeline, one is promoted, and goes on with a timeline whose first segment begins as the old
/// one's.
#[test]
fn f61_a_standby_that_archives_too_is_promoted() {
    let archive = Archive::new();
    let push = archive.server.directory().join("push.sh");
    let command = format!("archive_command=sh {} \"%p\" # dbagent wal push", push.display());
    let standby = Standby::of(&archive.server, &["archive_mode=always", &command]);
    let segments: Vec<_> = (0..3).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[2]);
    archive.server.sql("INSERT INTO filler SELECT md5(n::text) FROM generate_series(1, 200) n").unwrap();
    let caught_up = archive.server.sql("SELECT pg_current_wal_insert_lsn()").unwrap();
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{caught_up}'::pg_lsn");
    archive.wait("the standby catches up", || standby.ask("postgres", &query) == "t");
    assert_eq!(standby.ask("postgres", "SELECT pg_promote()"), "t");
    standby.ask("postgres", "CREATE TABLE after_promotion AS SELECT 1 AS one");
    let first = standby.ask("postgres", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(first.starts_with("00000002"), "{first}");
    standby.ask("postgres", "SELECT pg_switch_wal()");
    let first: SegmentName = first.parse().unwrap();
    archive.wait("the new timeline is archived", || archive.objects_of(first) == 2);
    let stored = archive.stored();
    for name in ["00000002.history.gpg", ".partial.zst.gpg"] {
        assert!(stored.iter().any(|path| path.ends_with(name)), "{name}: {stored:?}");
    }
    for segment in &segments {
        assert_eq!((archive.objects_of(*segment), archive.fetch(segment).0), (2, Some(0)), "{segment}");
    }
    assert_eq!((archive.fetch(first).0, archive.fetch("00000002.history").0), (Some(0), Some(0)));
    let failures = |count: String| count.parse::<u64>().unwrap();
    assert_eq!(failures(standby.ask("postgres", "SELECT failed_count FROM pg_stat_archiver")), 0);
    assert_eq!(archive.failed_count(), 0);
    let listed = archive.run(&["wal", "list", "--json"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("wal-gap"), "{listed:?}");
}

/// A copy of the archive's server, taken by pg_basebackup without WAL.
struct Copy {
    data: PathBuf,
}

impl Copy {
    fn of(archive: &Archive) -> Self {
        let data = archive.root().join("state/copy");
        let source =
            format!("host={} port={} user=postgres", archive.server.directory().display(), archive.server.port());
        let mut command = Self::program(archive, "pg_basebackup");
        command
            .args(["--checkpoint=fast", "--no-sync", "--wal-method=none", "--dbname", &source, "--pgdata"])
            .arg(&data);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let (binary, config) = (env!("CARGO_BIN_EXE_dbagent"), archive.root().join("dbagent.toml"));
        let command = format!("{binary} --config {} wal fetch \"%f\" \"%p\"", config.display());
        let settings = format!("restore_command = '{command}'\nrecovery_target_action = 'promote'\n");
        let path = data.join("postgresql.auto.conf");
        archive.write(&path, settings);
        archive.write(&data.join("recovery.signal"), "");
        Self { data }
    }

    fn program(archive: &Archive, name: &str) -> Command {
        use std::os::unix::process::CommandExt as _;

        let mut command = Command::new(dbagent::postgres::find_tool(None, name).unwrap());
        if let Some((user, group)) = archive.owner {
            command.uid(user).gid(group);
        }
        command.current_dir(archive.root()).stdin(Stdio::null());
        command
    }

    /// Recovers to the end or until recovery stops, and gives what the server said.
    fn recover(&mut self, archive: &Archive) -> String {
        let log = archive.root().join("state/recovery.log");
        let _ = std::fs::remove_file(&log);
        let mut server = Self::program(archive, "postgres");
        server.arg("-D").arg(&self.data).args(["-c", "listen_addresses=", "-c", "archive_mode=off", "-c", "fsync=off"]);
        server.args(["-c", "lc_messages=C", "-c", "port=5432", "-c"]);
        server.arg(format!("unix_socket_directories={}", archive.root().join("state").display()));
        let file = std::fs::File::create(&log).unwrap();
        let mut child = server.stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let said = || std::fs::read_to_string(&log).unwrap();
        while child.try_wait().unwrap().is_none() && !said().contains("ready to accept connections") {
            assert!(Instant::now() < deadline, "recovery hangs:\n{}", said());
            std::thread::sleep(Duration::from_millis(50));
        }
        if child.try_wait().unwrap().is_none() {
            crate::stage::agent::signal(child.id(), "INT");
            child.wait().unwrap();
        }
        said()
    }
}
