//! The configuration: what loads, where each value comes from, and that no secret is ever shown.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use dbagent::config::{
    ConfigErrors, Encryption, Environment, LoadRequest, Loaded, MASK, Origin, Place, Profile, Secret, SslMode, example,
    load, schema, show,
};
use dbagent::model::span::Span;
use tempfile::TempDir;

/// A folder with a configuration file that only its owner reads.
struct Folder(TempDir);

impl Folder {
    fn with(text: &str) -> Self {
        let folder = Self(TempDir::new().unwrap());
        folder.write("dbagent.toml", text);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn request(&self) -> LoadRequest {
        LoadRequest { path: Some(self.path("dbagent.toml")), search: Vec::new() }
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
        load(&self.request(), &environment(variables))
    }

    /// The errors, without the folder's path.
    fn errors(&self, variables: &[(&str, &str)]) -> Vec<String> {
        let errors = self.load(variables).err().map(|errors| errors.0).unwrap_or_default();
        let folder = format!("{}/", self.0.path().display());
        errors.iter().map(|error| error.to_string().replace(&folder, "")).collect()
    }
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

fn loaded(text: &str, variables: &[(&str, &str)]) -> Loaded {
    Folder::with(text).load(variables).unwrap()
}

/// The example of the specification, with a real fingerprint in place of the ellipsis.
const SPECIFIED: &str = r#"
cluster = "consulting-tool"                # name in the repository, the metrics and the report
plan = "schedules/bc-003.toml"             # or the name of a built-in plan: "bc-003", "dify", "managed"
state_dir = "/var/lib/dbagent"

[postgres]
url = "postgres://dbagent@127.0.0.1:5432/consulting_tool"   # or host/port/user/database/sslmode keys, or PG* variables
password_file = "/run/secrets/pg_password"
data_directory = "/var/lib/postgresql/data"                 # gives the fast base-backup path; asked from the server when readable
bin_directory = "/usr/lib/postgresql/15/bin"                # found by itself

[repository.local]
url = "file:///var/backups/postgresql/bc-003"

[repository.s3]
url = "s3://consulting-tool-backups/bc-003"
region = "ap-northeast-1"
endpoint = "http://127.0.0.1:9000"         # S3-compatible stores
path_style = true
sse = "aws:kms"
kms_key_id = "arn:aws:kms:…"

[encryption]
recipients = ["/etc/dbagent/backup.asc"]   # certificates; private keys never needed for backups
fingerprints = ["0123 4567 89AB CDEF 0123  4567 89ab cdef 0123 4567"]
signing_key = "/etc/dbagent/signing.asc"
decryption_key = "/etc/dbagent/restore-key.asc"   # only where restores run; passphrase as _file/_command

[web]
listen = "127.0.0.1:9851"
"#;

#[test]
fn the_example_of_the_specification_loads() {
    let folder = Folder::with(SPECIFIED);
    folder.write("schedules/bc-003.toml", include_str!("../../schedules/bc-003.toml"));
    let Loaded { config, plan, warnings, .. } = folder.load(&[]).unwrap();
    assert_eq!(config.cluster, "consulting-tool");
    assert_eq!(plan.unwrap().name, "bc-003");
    assert_eq!(warnings, Vec::<String>::new());
    let s3 = &config.repository["s3"];
    assert_eq!(s3.url, Place::S3 { bucket: "consulting-tool-backups".into(), prefix: "bc-003".into() });
    assert!(s3.path_style);
    assert_eq!(config.repository["local"].url, Place::Directory("/var/backups/postgresql/bc-003".into()));
    let encryption = config.encryption.unwrap();
    let keys = encryption.openpgp().unwrap();
    assert_eq!(keys.fingerprints[0].as_str(), "0123456789ABCDEF0123456789ABCDEF01234567");
    assert_eq!(keys.profile, Profile::GnuPg);
    assert_eq!(&*keys.recipients[0], Path::new("/etc/dbagent/backup.asc"));
    assert!(
        matches!(config.postgres.secret(), Some(Secret::File(path)) if path == Path::new("/run/secrets/pg_password"))
    );
    assert_eq!(config.web.listen.port(), 9851);
}

#[test]
fn our_own_example_loads_and_names_every_key() {
    loaded(example(), &[]);
    let mut keys = Vec::new();
    keys_of(&schema(), &mut keys);
    assert!(keys.len() > 60, "only {} keys were found in the schema", keys.len());
    let words: Vec<&str> = example().split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let silent: Vec<_> = keys.iter().filter(|key| !words.contains(&key.as_str())).collect();
    assert!(silent.is_empty(), "the example does not name {silent:?}");
}

/// Names of all properties of the schema below `node`.
fn keys_of(node: &serde_json::Value, found: &mut Vec<String>) {
    match node {
        serde_json::Value::Object(entries) => {
            let properties = entries.get("properties").and_then(serde_json::Value::as_object);
            found.extend(properties.into_iter().flat_map(|properties| properties.keys().cloned()));
            entries.values().for_each(|entry| keys_of(entry, found));
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys_of(item, found)),
        _ => {}
    }
}

/// The key or section in a comment of the example.
fn optional(line: &str) -> Option<&str> {
    line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with('['))
}

#[test]
fn every_commented_key_of_the_example_loads_too() {
    let lines = example().lines().filter(|line| !line.contains("Each can be"));
    let mut uncommented: Vec<&str> = lines.map(|line| optional(line).unwrap_or(line)).collect();
    let other_form = |line: &str| {
        let forms = ["password = ", "password_command = ", "password_aws_secret = ", "secret = "];
        let passphrase = line.contains("_passphrase = ") || line.contains("_passphrase_command = ");
        passphrase || forms.iter().any(|form| line.starts_with(form))
    };
    uncommented.retain(|line| !other_form(line));
    let folder = Folder::with(&uncommented.join("\n"));
    let config = folder.load(&[]).unwrap().config;
    assert_eq!(config.notify.smtp.unwrap().to, ["ops@example.org"]);
    assert_eq!(config.repository["s3"].object_lock.as_ref().unwrap().days, 90);
    assert_eq!(config.postgres.roles.len(), 4);
}

const SMALL: &str = "cluster = \"a\"\nencryption = \"none\"\n[repository.local]\nurl = \"file:///backups\"\n";

#[test]
fn f24_bad_input_is_told_with_file_line_key_and_what_was_meant() {
    // Lines count from the first line of SMALL; each text follows it.
    let cases: &[(&str, &str)] = &[
        ("region = \"x\"", "dbagent.toml:5:10: repository.local.region: only an s3:// repository takes it"),
        ("ulr = \"x\"", "dbagent.toml:5:1: repository.local.ulr: unknown key, did you mean \"url\"?"),
        ("path_style = \"yes\"", "dbagent.toml:5:14: repository.local.path_style: expected a boolean, found a text"),
        ("url = \"file:///b\"", "dbagent.toml:5:1: url: duplicate key"),
        ("[repository.local]", "dbagent.toml:5:13: local: duplicate key"),
        ("[postgres]\nprot = 1", "dbagent.toml:6:1: postgres.prot: unknown key, did you mean \"port\"?"),
        ("[postgres]\nport = \"5432\"", "dbagent.toml:6:8: postgres.port: expected u16, found a text"),
        ("[postgres]\nport = 65536", "dbagent.toml:6:8: postgres.port: expected u16, found 65536"),
        ("[postgres]\nport = -1", "dbagent.toml:6:8: postgres.port: expected u16, found -1"),
        ("[postgres]\nport = 0", "dbagent.toml:6:8: postgres.port: expected 1 to 65535"),
        ("[postgres]\nport = 5432.5", "dbagent.toml:6:8: postgres.port: expected u16, found a number with a fraction"),
        ("[postgres]\nport = 99999999999999999999", "dbagent.toml:6:8: the number is too large"),
        ("[postgres]\nport = 2025-11-03", "dbagent.toml:6:8: postgres.port: expected u16, found another kind of value"),
        ("[postgres]\nport = [5432]", "dbagent.toml:6:8: postgres.port: expected u16, found a list"),
        ("[postgres]\nhost = { a = 1 }", "dbagent.toml:6:8: postgres.host: expected a string, found a table"),
        (
            "[postgres]\nsslmode = \"verify_full\"",
            "dbagent.toml:6:11: postgres.sslmode: unknown word \"verify_full\", expected one of disable, allow, prefer, require, verify-ca, verify-full, did you mean \"verify-full\"?",
        ),
        (
            "[postgres]\nurl = \"mysql://h/d\"",
            "dbagent.toml:6:7: postgres.url: the URL of a server begins with postgres://",
        ),
        (
            "[postgres]\nurl = \"not a url\"",
            "dbagent.toml:6:7: postgres.url: expected a URL: relative URL without a base",
        ),
        (
            "[postgres]\npassword_file = \"a\"\npassword_command = \"b\"",
            "dbagent.toml:7:20: postgres.password_command: password_file is there too; write one of them",
        ),
        ("[postgres]\npassword_command = []", "dbagent.toml:6:20: postgres.password_command: run an empty command"),
        (
            "[postgres.roles]\ndmup = \"x\"",
            "dbagent.toml:6:1: postgres.roles.dmup: unknown word \"dmup\", expected one of dump, increment, base-backup, wal-sync, expire, partition, audit-verify, audit-checkpoint, purge, files, restore-test, report, check, did you mean \"dump\"?",
        ),
        ("[postgres.replication]\n", "dbagent.toml:5:1: postgres.replication.user: the key is missing"),
        ("[repository.s3]\nregion = \"x\"", "dbagent.toml:5:1: repository.s3.url: the key is missing"),
        (
            "[repository.s3]\nurl = \"ftp://h/d\"",
            "dbagent.toml:6:7: repository.s3.url: the URL of a repository begins with file:/// or s3://",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\nsse = \"aws-kms\"",
            "dbagent.toml:7:7: repository.s3.sse: unknown word \"aws-kms\", expected one of AES256, aws:kms, did you mean \"aws:kms\"?",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\nkms_key_id = \"k\"",
            "dbagent.toml:7:14: repository.s3.kms_key_id: it has no effect without sse = \"aws:kms\"",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\npart_size = \"1MB\"",
            "dbagent.toml:7:13: repository.s3.part_size: expected 5MB to 5GB",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\npart_size = \"16 parsecs\"",
            "dbagent.toml:7:13: repository.s3.part_size: read \"16 parsecs\" as a size: the unit must be one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\nendpoint = \"minio:9000\"",
            "dbagent.toml:7:12: repository.s3.endpoint: expected an http:// or https:// address without credentials",
        ),
        (
            "[repository.s3]\nurl = \"s3://bucket\"\nobject_lock = { mode = \"complience\", days = 1 }",
            "dbagent.toml:7:24: repository.s3.object_lock.mode: unknown word \"complience\", expected one of governance, compliance, did you mean \"compliance\"?",
        ),
        (
            "[repository.\"a b\"]\nurl = \"file:///x\"",
            "dbagent.toml:5:1: repository.a b: a name is 1 to 63 letters, digits, hyphens and underscores",
        ),
        (
            "[repository.count]\nurl = \"file:///x\"",
            "dbagent.toml:5:1: repository.count: the name is a rule of keep; choose another",
        ),
        (
            "[repository.other]\nurl = \"file:///backups\"",
            "dbagent.toml:6:7: repository.other.url: is the same place as repository.local",
        ),
        ("[dump]\ncompression_level = 13", "dbagent.toml:6:21: dump.compression_level: expected 1 to 12"),
        (
            "[dump]\nlock_timeout = 30",
            "dbagent.toml:6:16: dump.lock_timeout: expected a length of time such as \"30 days\" or \"90 seconds\", found a whole number",
        ),
        (
            "[goals]\nrto = \"4 parsecs\"",
            "dbagent.toml:6:7: goals.rto: read \"4 parsecs\" as a length of time: \"parsecs\" is no unit of time",
        ),
        ("[goals]\nrpo = \"0 s\"", "dbagent.toml:6:7: goals.rpo: a length of zero makes it useless"),
        ("[web]\nlisten = \"localhost\"", "dbagent.toml:6:10: web.listen: invalid socket address syntax"),
        (
            "[restore]\ntimezone = \"Europe/Amsterdm\"",
            "dbagent.toml:6:12: restore.timezone: find the time zone \"Europe/Amsterdm\": expected a name such as \"Europe/Amsterdam\"",
        ),
        ("[encrypton]\nrecipients = []", "dbagent.toml:5:2: encrypton: unknown key, did you mean \"encryption\"?"),
        ("[web", "dbagent.toml:5:5: unclosed table, expected `]`"),
        ("a\0b = 1", "dbagent.toml:5:2: a NUL byte is in the text"),
        (
            "[verification]\ncertificates = [\"a\", 7]",
            "dbagent.toml:6:22: verification.certificates: expected path string, found a whole number",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let told = Folder::with(&format!("{SMALL}{text}")).errors(&[]);
        if told.first().map(String::as_str) != Some(expected) {
            wrong.push(format!("{text:?}\n  expected {expected}\n  told     {told:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn f24_encryption_is_never_left_out_by_accident() {
    let cases = [
        (
            "encryption = \"non\"",
            "dbagent.toml:2:14: encryption: unknown word \"non\", expected one of none, did you mean \"none\"?",
        ),
        (
            "[encryption]",
            "dbagent.toml:2:1: encryption: there are no recipients; write recipients, or encryption = \"none\"",
        ),
        (
            "[encryption]\nrecipients = [\"a\"]\nfingerprints = [\"ABCD\"]",
            "dbagent.toml:4:17: encryption.fingerprints: expected a full fingerprint of 40 or 64 hexadecimal digits",
        ),
        (
            "[encryption]\nrecipients = [\"a\"]\nprofile = \"pgp\"",
            "dbagent.toml:4:11: encryption.profile: unknown word \"pgp\", expected one of gnupg, rfc9580",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(Folder::with(&format!("cluster = \"a\"\n{text}")).errors(&[])[0], expected);
    }
    let unset = loaded("cluster = \"a\"", &[]);
    assert!(unset.config.encryption.is_none());
    assert!(unset.warnings.iter().any(|warning| warning.contains("nothing is stored until")), "{:?}", unset.warnings);
    let none = loaded("cluster = \"a\"\nencryption = \"none\"", &[]);
    assert!(matches!(none.config.encryption, Some(Encryption::None)));
    assert!(none.warnings.iter().any(|warning| warning.contains("in the clear")), "{:?}", none.warnings);
}

#[test]
fn f24_all_errors_are_told_at_once() {
    let folder = Folder::with("clutser = \"a\"\n[postgres]\nport = \"x\"\n[web]\nlisten = 1\n[repository.s3]\n");
    let told = folder.errors(&[]);
    assert_eq!(told.len(), 5, "{told:#?}");
    assert!(told.iter().any(|error| error.contains("clutser: unknown key, did you mean \"cluster\"?")));
    assert!(told.iter().any(|error| error.contains("cluster: the key is missing")));
}

#[test]
fn f24_files_that_are_no_text_are_refused() {
    let folder = Folder::with("");
    for (bytes, expected) in [
        (
            b"\xef\xbb\xbfcluster = \"a\"".to_vec(),
            "dbagent.toml: begins with a byte order mark; save it as UTF-8 without one",
        ),
        (b"\xff\xfec\0l\0".to_vec(), "dbagent.toml: begins with a byte order mark; save it as UTF-8 without one"),
        (b"cluster = \"a\"\nx = \"\xff\"".to_vec(), "dbagent.toml:2:1: is not UTF-8 text"),
        (vec![b'#'; (1 << 20) + 1], "dbagent.toml: is larger than 1 MiB and no configuration"),
    ] {
        folder.write("dbagent.toml", bytes);
        assert_eq!(folder.errors(&[]), [expected]);
    }
    let directory = LoadRequest { path: Some(folder.0.path().to_owned()), search: Vec::new() };
    let error = load(&directory, &Environment::default()).unwrap_err().to_string();
    assert!(error.contains("it is no regular file"), "{error}");
}

#[test]
fn f24_huge_and_deep_files_are_refused_in_good_time() {
    let deep_key = format!("{} = 1", vec!["a"; 400_000].join("."));
    let deep_list = format!("a = {}", "[".repeat(1_000_000));
    let deep_table = format!("a = {}", "{ a = ".repeat(150_000));
    let many: String = (0..60_000).map(|n| format!("key{n} = 1\n")).collect();
    let one_line = format!("a = [{}]", "1,".repeat(500_000));
    for text in [deep_key, deep_list, deep_table, many, one_line] {
        assert!(!Folder::with(&text).errors(&[]).is_empty());
    }
}

#[test]
fn the_environment_alone_is_enough() {
    let request = LoadRequest { path: None, search: vec!["/nonexistent/dbagent.toml".into()] };
    let variables = environment(&[
        ("DBAGENT_CLUSTER", "a"),
        ("DBAGENT_PLAN", "managed"),
        ("DBAGENT_ENCRYPTION__RECIPIENTS", "/keys/a.asc, /keys/b.asc"),
        (
            "DBAGENT_ENCRYPTION__FINGERPRINTS",
            "0123456789ABCDEF0123456789ABCDEF01234567, 76543210FEDCBA9876543210FEDCBA9876543210",
        ),
        ("DBAGENT_REPOSITORY__S3__URL", "s3://bucket/x"),
        ("DBAGENT_REPOSITORY__S3__PATH_STYLE", "true"),
        ("DBAGENT_REPOSITORY__S3__OBJECT_LOCK", "{ mode = \"governance\", days = 7 }"),
        ("DBAGENT_REPOSITORY__S3__PART_SIZE", "16MB"),
        ("DBAGENT_POSTGRES__PORT", "5433"),
        ("DBAGENT_POSTGRES__PASSWORD_COMMAND", "[\"pass\", \"show, me\"]"),
        ("DBAGENT_POSTGRES__ROLES__BASE-BACKUP", "dbagent_base"),
        ("DBAGENT_GOALS__RTO", "4 hours"),
        ("DBAGENT_WEB__LISTEN", ""),
    ]);
    let Loaded { config, plan, file, .. } = load(&request, &variables).unwrap();
    assert_eq!(file, None);
    assert_eq!(plan.unwrap().name, "managed");
    let Some(Encryption::OpenPgp(keys)) = config.encryption else { unreachable!("there are recipients") };
    assert_eq!(
        keys.recipients.iter().map(|path| path.0.to_str().unwrap()).collect::<Vec<_>>(),
        ["/keys/a.asc", "/keys/b.asc"]
    );
    let s3 = &config.repository["s3"];
    assert_eq!(
        (s3.path_style, s3.object_lock.as_ref().unwrap().days, s3.part_size.unwrap().bytes()),
        (true, 7, 16 << 20)
    );
    assert_eq!(config.postgres.port, Some(5433));
    assert!(matches!(config.postgres.secret(), Some(Secret::Command(words)) if words == ["pass", "show, me"]));
    assert_eq!(config.goals.rto, Some(Span::seconds(4 * 3600)));
    assert_eq!(config.web.listen.port(), 9851, "an empty variable counts as not set");
    let nothing = load(&request, &Environment::default()).unwrap_err().to_string();
    assert!(nothing.contains("there is no /nonexistent/dbagent.toml"), "{nothing}");
}

#[test]
fn the_order_of_places_is_argument_then_variable_then_search() {
    let folder = Folder::with("");
    for name in ["argument", "variable", "first", "second"] {
        folder.write(&format!("{name}.toml"), format!("cluster = \"{name}\""));
    }
    let path = |name: &str| folder.path(&format!("{name}.toml"));
    let variable = path("variable").display().to_string();
    let cluster = |argument: Option<&str>, variables: &[(&str, &str)], search: &[&str]| {
        let search = search.iter().map(|name| path(name)).collect();
        let request = LoadRequest { path: argument.map(path), search };
        load(&request, &environment(variables)).map(|loaded| loaded.config.cluster)
    };
    let named = [("DBAGENT_CONFIG", variable.as_str())];
    assert_eq!(cluster(Some("argument"), &named, &["first", "second"]).unwrap(), "argument");
    assert_eq!(cluster(None, &named, &["first", "second"]).unwrap(), "variable");
    assert_eq!(cluster(None, &[], &["first", "second"]).unwrap(), "first");
    assert_eq!(cluster(None, &[], &["missing", "second"]).unwrap(), "second");
    assert!(cluster(Some("missing"), &named, &["first"]).is_err(), "a named file must be there");
    assert!(cluster(None, &[("DBAGENT_CONFIG", "/nonexistent"), ("DBAGENT_CLUSTER", "x")], &["first"]).is_err());
}

#[test]
fn variables_of_ours_beat_the_file_and_the_file_beats_the_aliases() {
    let text = format!("{SMALL}[postgres]\nhost = \"file\"\nuser = \"file\"\npassword_file = \"/file\"\n");
    let variables = [
        ("DBAGENT_POSTGRES__HOST", "ours"),
        ("PGHOST", "libpq"),
        ("PGUSER", "libpq"),
        ("PGDATABASE", "libpq"),
        ("PGSSLMODE", "verify-full"),
        ("PGPASSWORD", "libpq"),
        ("POSTGRES_DB", "image"),
        ("HOME", "/home/me"),
    ];
    let folder = Folder::with(&text);
    let Loaded { config, origins, .. } = folder.load(&variables).unwrap();
    let postgres = &config.postgres;
    assert_eq!(postgres.host.as_deref(), Some("ours"));
    assert_eq!(postgres.user.as_deref(), Some("file"));
    assert_eq!(postgres.database.as_deref(), Some("libpq"));
    assert_eq!(postgres.sslmode, Some(SslMode::VerifyFull));
    assert!(matches!(postgres.secret(), Some(Secret::File(path)) if path == Path::new("/file")));
    assert_eq!(postgres.passfile.as_ref().unwrap().0, Path::new("/home/me/.pgpass"));
    assert_eq!(origins["postgres.host"], Origin::Environment("DBAGENT_POSTGRES__HOST".into()));
    assert_eq!(origins["postgres.database"].to_string(), "$PGDATABASE");
    assert_eq!(origins["postgres.user"].line(), Some(7));
    let replaced = folder.load(&[("DBAGENT_POSTGRES__PASSWORD", "hunter2")]).unwrap();
    assert!(matches!(replaced.config.postgres.secret(), Some(Secret::Value(_))), "a variable replaces the file's form");
}

#[test]
fn aliases_of_the_official_image_are_read_from_files() {
    let folder = Folder::with(SMALL);
    folder.write("user", "from_file\n");
    let path = |name: &str| folder.path(name).display().to_string();
    let (user, password) = (path("user"), path("password"));
    let variables = [("POSTGRES_USER_FILE", user.as_str()), ("POSTGRES_PASSWORD_FILE", password.as_str())];
    let postgres = folder.load(&variables).unwrap().config.postgres;
    assert_eq!(postgres.user.as_deref(), Some("from_file"));
    assert!(matches!(postgres.secret(), Some(Secret::File(path)) if path == folder.path("password")));
    let told = folder.errors(&[("POSTGRES_DB_FILE", "/nonexistent/db")]);
    assert_eq!(told, ["$POSTGRES_DB_FILE: names a file that is not there"]);
}

#[test]
fn a_service_comes_before_the_variables_of_libpq() {
    let postgres =
        loaded(SMALL, &[("PGSERVICE", "prod"), ("PGHOST", "elsewhere"), ("PGPASSWORD", "x")]).config.postgres;
    assert_eq!((postgres.service.as_deref(), postgres.host), (Some("prod"), None));
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    let folder = Folder::with(SMALL);
    let told = folder.errors(&[
        ("DBAGENT_POSTGRES__PORT", "many"),
        ("DBAGENT_POSTGRES__HSOT", "x"),
        ("DBAGENT_WEB__LISTEN", "caf\u{fffd}"),
    ]);
    assert_eq!(told, ["$DBAGENT_WEB__LISTEN: is not UTF-8 text"]);
    let told = folder.errors(&[("DBAGENT_POSTGRES__PORT", "many"), ("DBAGENT_POSTGRES__HSOT", "x")]);
    assert_eq!(
        told,
        [
            "$DBAGENT_POSTGRES__HSOT: postgres.hsot: unknown key, did you mean \"host\"?",
            "$DBAGENT_POSTGRES__PORT: postgres.port: expected u16, found a text",
        ]
    );
    let warnings = folder.load(&[("DBAGENT_CLUSTRE", "x"), ("DBAGENT_SERVICE_HOST", "10.0.0.1")]).unwrap().warnings;
    assert!(
        warnings.iter().any(|warning| warning == "DBAGENT_CLUSTRE sets nothing, did you mean DBAGENT_CLUSTER?"),
        "{warnings:?}"
    );
    assert!(!warnings.iter().any(|warning| warning.contains("SERVICE_HOST")), "{warnings:?}");
}

#[test]
fn a_variable_reaches_a_repository_with_a_hyphen() {
    let text = format!("{SMALL}[repository.off-site]\nurl = \"s3://bucket\"\n");
    let config = loaded(&text, &[("DBAGENT_REPOSITORY__OFF_SITE__REGION", "eu-central-1")]).config;
    assert_eq!(config.repository["off-site"].region.as_deref(), Some("eu-central-1"));
}

#[test]
fn f50_a_recipient_without_its_pin_is_refused_when_the_configuration_is_read() {
    let folder = Folder::with("cluster = \"a\"\n[encryption]\nrecipients = [\"a.asc\"]\n");
    let told = folder.errors(&[]);
    assert!(told.iter().any(|error| error.contains("encryption.fingerprints: without it")), "{told:?}");
}

#[test]
fn relative_paths_are_below_the_files_folder() {
    let folder = Folder::with(
        "cluster = \"a\"\nstate_dir = \"state\"\n[encryption]\nrecipients = [\"keys/a.asc\"]\n\
         fingerprints = [\"0123456789ABCDEF0123456789ABCDEF01234567\"]\n",
    );
    let config = folder.load(&[]).unwrap().config;
    assert_eq!(config.state_dir.0, folder.path("state"));
    assert_eq!(config.encryption.unwrap().openpgp().unwrap().recipients[0].0, folder.path("keys/a.asc"));
}

#[test]
fn f23_a_file_that_holds_a_secret_is_refused_when_others_can_read_it() {
    let holders = [
        "[postgres]\npassword = \"hunter2\"",
        "[postgres]\nurl = \"postgres://u:hunter2@h/d\"",
        "[postgres]\nurl = \"postgres://u@h/d?password=hunter2\"",
        "[postgres.replication]\nuser = \"u\"\npassword = \"hunter2\"",
        "[notify.webhook.x]\nurl = \"https://h/hunter2\"",
    ];
    for text in holders {
        let folder = Folder::with(&format!("{SMALL}{text}"));
        let set_mode =
            |mode| fs::set_permissions(folder.path("dbagent.toml"), fs::Permissions::from_mode(mode)).unwrap();
        for mode in [0o604, 0o606, 0o644, 0o660, 0o666, 0o777] {
            set_mode(mode);
            let told = folder.errors(&[]);
            let expected = format!("a secret stands in a file of mode {mode:04o}");
            assert!(told.len() == 1 && told[0].contains(&expected), "{text} {mode:o}: {told:?}");
            assert!(!told[0].contains("hunter2"), "{told:?}");
        }
        for mode in [0o400, 0o600, 0o700] {
            set_mode(mode);
            assert_eq!(folder.errors(&[]), Vec::<String>::new(), "{text} {mode:o}");
        }
    }
    let folder = Folder::with(&format!("{SMALL}[postgres]\npassword_file = \"/run/secrets/x\""));
    fs::set_permissions(folder.path("dbagent.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(folder.errors(&[]), Vec::<String>::new(), "a reference to a secret is no secret");
}

#[test]
fn show_tells_every_value_with_its_place_and_masks_secrets() {
    let text = format!("{SMALL}[postgres]\nurl = \"postgres://u:hunter2@h/d?sslmode=require\"\n");
    let loaded = loaded(&text, &[("DBAGENT_WEB__LISTEN", "127.0.0.1:1"), ("PGPASSWORD", "hunter2")]);
    let rows: BTreeMap<String, (String, String)> =
        show(&loaded).unwrap().into_iter().map(|row| (row.key, (row.value, row.origin.to_string()))).collect();
    let url = format!("postgres://u:{MASK}@h/d?sslmode=require");
    assert_eq!(rows["postgres.url"].0, url);
    assert!(rows["postgres.url"].1.ends_with("dbagent.toml:6:7"), "{rows:?}");
    assert_eq!(rows["postgres.password"], (MASK.to_owned(), "$PGPASSWORD".to_owned()));
    assert_eq!(rows["web.listen"], ("127.0.0.1:1".to_owned(), "$DBAGENT_WEB__LISTEN".to_owned()));
    assert_eq!(rows["dump.compression_level"], ("2".to_owned(), "default".to_owned()));
    assert_eq!(rows["encryption"].0, "none");
    assert!(!format!("{rows:?} {loaded:?}").contains("hunter2"));
}

/// Puts a canary where secrets stand, breaks the text in every way, and looks for it in all that is told.
#[test]
fn g15_no_secret_is_ever_told() {
    const CANARY: &str = "hunter2";
    let keys = [
        "postgres.password",
        "postgres.password.x",
        "postgres.pasword",
        "postgres.replication.password",
        "encryption.signing_key_passphrase",
        "encryption.decryption_key_passphrase",
        "notify.smtp.password",
        "notify.webhook.x.secret",
        "notify.webhook.x.url",
        "notify.ping.full",
        "postgres.url",
        "repository.s3.url",
        "repository.s3.endpoint",
    ];
    let values = [
        "\"hunter2\"",
        "[\"hunter2\"]",
        "{ a = \"hunter2\" }",
        "\"postgres://u:hunter2@h:x/\"",
        "\"s3://a:hunter2@b/c\"",
        "\"https://a:hunter2@b/c\"",
        "\"hunter2",
        "'hunter2'x",
        "hunter2",
        "\"\"\"hunter2\"\"\"",
        "\"hunter2\\q\"",
        "\"postgres://u:hunter2@h/d\"",
        "\"postgres://u@h/d?password=hunter2\"",
        "\"hunter2\"\n\0",
        "0xhunter2",
    ];
    let mut told = 0;
    for key in keys {
        for value in values {
            let folder = Folder::with(&format!("{key} = {value}\n{SMALL}"));
            let text = match folder.load(&[]) {
                Ok(loaded) => format!("{loaded:?} {:?} {:?}", loaded.warnings, show(&loaded).unwrap()),
                Err(errors) => format!("{errors} {errors:?}"),
            };
            told += text.len();
            assert!(!text.contains(CANARY), "{key} = {value}: {text}");
        }
        let name = format!("DBAGENT_{}", key.replace('.', "__").to_uppercase());
        for value in ["hunter2", "[hunter2", "{ a = hunter2", "postgres://u:hunter2@h:x/"] {
            let text = match Folder::with(SMALL).load(&[(&name, value)]) {
                Ok(loaded) => format!("{loaded:?} {:?}", show(&loaded).unwrap()),
                Err(errors) => format!("{errors} {errors:?}"),
            };
            assert!(!text.contains(CANARY), "{name}={value}: {text}");
        }
    }
    assert!(told > 10_000, "hardly anything was told");
    assert!(!format!("{:?}", environment(&[("PGPASSWORD", CANARY)])).contains(CANARY));
}

/// Texts made from pieces of TOML, and a good text with bytes changed: an error or a value, never a panic.
#[test]
fn f24_no_text_panics() {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    let pieces = [
        "cluster",
        "=",
        "\"",
        "'",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        "\n",
        "postgres",
        "repository.s3",
        "url",
        "s3://",
        "1",
        "-1",
        "1e999",
        "0x",
        "true",
        "2025-11-03",
        "encryption",
        "none",
        "\"\"\"",
        "\\u0000",
        "é",
        "#",
        " ",
        "keep",
        "[[",
        "]]",
        "nan",
        "DBAGENT",
        "port",
        "plan",
        "bc-003",
        "9223372036854775808",
    ];
    let mut random = StdRng::seed_from_u64(24);
    let folder = Folder::with("");
    let (mut good, mut bad) = (0, 0);
    for round in 0..600 {
        let bytes = if round % 2 == 0 {
            (0..random.random_range(0..30))
                .map(|_| pieces[random.random_range(0..pieces.len())])
                .collect::<String>()
                .into_bytes()
        } else {
            let mut bytes = SPECIFIED.replace("schedules/bc-003.toml", "bc-003").into_bytes();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes
        };
        folder.write("dbagent.toml", &bytes);
        match folder.load(&[]) {
            Ok(_) => good += 1,
            Err(errors) => {
                bad += 1;
                assert!(!errors.0.is_empty(), "a refusal without an error: {bytes:?}");
            }
        }
    }
    assert!(good > 20 && bad > 250, "{good} loaded, {bad} did not");
}

const PROFILE: &str = "[audit.profile.\"app/v2\"]\nfrom = \"2020-01-01T00:00:00Z\"\nuntil = \"2021-01-01T00:00:00Z\"\nseparator = \"|\"\ncolumns = [\"id\", \"previous_hash\"]\n";

#[test]
fn a_formula_of_older_rows_is_refused_with_file_line_key_and_what_was_meant() {
    let cases: &[(&str, &str, &str)] = &[
        ("until = \"2021-01-01T00:00:00Z\"\n", "", "5:1: audit.profile.app/v2.until: the key is missing"),
        ("from = \"2020-01-01T00:00:00Z\"\n", "", "5:1: audit.profile.app/v2.from: the key is missing"),
        ("2021-01-01", "2020-01-01", "7:9: audit.profile.app/v2.until: the range is empty: until is not after from"),
        (
            "2021-01-01T00:00:00Z",
            "2021-01-01",
            "7:9: audit.profile.app/v2.until: expected an instant with its offset, as \"2020-01-01T00:00:00Z\"",
        ),
        (
            "\"id\"",
            "\"ip_adress\"",
            "9:11: audit.profile.app/v2.columns: unknown column \"ip_adress\", did you mean \"ip_address\"?",
        ),
        (
            "\"id\"",
            "\"recorded_at:isoms\"",
            "9:11: audit.profile.app/v2.columns: unknown encoding \"isoms\" of recorded_at, expected one of text, iso-s, iso-ms, iso-us, epoch-s, epoch-ms, epoch-us, did you mean \"iso-ms\"?",
        ),
        (
            ", \"previous_hash\"",
            "",
            "9:11: audit.profile.app/v2.columns: previous_hash is not among them: a hash that does not cover it chains nothing",
        ),
        ("separator", "seperator", "8:1: audit.profile.app/v2.seperator: unknown key, did you mean \"separator\"?"),
        (
            "separator = \"|\"",
            "separator = \"|\"\ngenesis = \"0\"",
            "9:11: audit.profile.app/v2.genesis: expected 64 hexadecimal digits",
        ),
        (
            "app/v2",
            "dbagent/v1",
            "5:1: audit.profile.dbagent/v1: names that begin with dbagent/ are of formulas built in",
        ),
    ];
    for (written, instead, expected) in cases {
        let text = format!("{SMALL}{}", PROFILE.replace(written, instead));
        assert_ne!(text, format!("{SMALL}{PROFILE}"), "{written}");
        let errors = Folder::with(&text).errors(&[]);
        assert!(errors.contains(&format!("dbagent.toml:{expected}")), "{expected}\n{errors:#?}");
    }
    let second = PROFILE.replace("app/v2", "app/v3").replace("2020-01-01", "2020-06-01").replace("2021", "2022");
    let errors = Folder::with(&format!("{SMALL}{PROFILE}{second}")).errors(&[]);
    assert_eq!(errors, ["dbagent.toml:11:8: audit.profile.app/v3.from: its range overlaps with that of \"app/v2\""]);
    let warnings = loaded(&format!("{SMALL}{PROFILE}"), &[]).warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("the hash says nothing of user_id, session_id")),
        "{warnings:?}"
    );
}
