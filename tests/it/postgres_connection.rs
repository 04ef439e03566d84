//! One resolution of where and who, TLS that never gives way, and logins of the client tools that show no secret.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbagent::host::{ChildSpec, run_to_end};
use dbagent::postgres::{
    ClientTools, Connection, ConnectionRequest, PostgresError, PostgresErrorKind, ServerFacts, SslMode, find_tool,
};
use dbagent::steps::scratch::{ScratchOptions, ScratchServer, ScratchTls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use secrecy::SecretString;

const SOON: Duration = Duration::from_secs(20);

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn secret_file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// The password that a child of this connection would be given.
fn password_of(connection: &Connection) -> String {
    let login = connection.child_environment().unwrap();
    let file = fs::read_to_string(login.directory().join("pgpass")).unwrap();
    file.trim_end().strip_prefix("*:*:*:*:").unwrap_or_default().to_owned()
}

/// Every layer names a host, each of its own; who is asked last gives way first.
#[test]
fn explicit_goes_before_url_before_service_before_environment_before_defaults() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".pg_service.conf"), "[backup]\nhost=service\nport=3\nuser=service\n").unwrap();
    let home = home.path().to_str().unwrap();
    let layers = environment(&[("HOME", home), ("PGHOST", "environment"), ("PGPORT", "4"), ("PGUSER", "environment")]);
    let with_service = |service: Option<&str>| ConnectionRequest {
        service: service.map(ToOwned::to_owned),
        environment: layers.clone(),
        ..ConnectionRequest::default()
    };
    let url = Some("postgres://url:5432/d?port=2&user=url".to_owned());
    let table = [
        (
            ConnectionRequest { environment: environment(&[("USER", "me")]), ..ConnectionRequest::default() },
            ("/var/run/postgresql", 5432, "me", "me"),
        ),
        (with_service(None), ("environment", 4, "environment", "environment")),
        (with_service(Some("backup")), ("service", 3, "service", "service")),
        (ConnectionRequest { url: url.clone(), ..with_service(Some("backup")) }, ("url", 2, "url", "d")),
        (
            ConnectionRequest { host: Some("explicit".into()), url, ..with_service(Some("backup")) },
            ("explicit", 2, "url", "d"),
        ),
        (
            ConnectionRequest { url: Some("postgres:///x?service=backup".into()), ..with_service(None) },
            ("service", 3, "service", "x"),
        ),
    ];
    for (request, (host, port, user, database)) in table {
        let found = request.resolve().unwrap();
        assert_eq!(found.host().to_string(), host);
        assert_eq!((found.port(), found.user(), found.database()), (port, user, database), "{found}");
    }
}

#[test]
fn the_aliases_of_the_official_image_are_read_last() {
    let folder = tempfile::tempdir().unwrap();
    let password = secret_file(folder.path(), "password", "from a file\n");
    let image = [
        ("POSTGRES_USER", "owner"),
        ("POSTGRES_DB", "app"),
        ("POSTGRES_PASSWORD_FILE", password.to_str().unwrap()),
        ("PGHOST", "db"),
    ];
    let request = ConnectionRequest { environment: environment(&image), ..ConnectionRequest::default() };
    let found = request.resolve().unwrap();
    assert_eq!((found.user(), found.database()), ("owner", "app"));
    assert_eq!(password_of(&found), "from a file");
    let more = [image.as_slice(), &[("PGUSER", "me"), ("PGPASSWORD", "mine")]].concat();
    let found = ConnectionRequest { environment: environment(&more), ..request }.resolve().unwrap();
    assert_eq!((found.user(), password_of(&found).as_str()), ("me", "mine"));
}

#[test]
fn a_password_comes_from_the_first_matching_line_of_the_password_file() {
    let folder = tempfile::tempdir().unwrap();
    let path =
        secret_file(folder.path(), ".pgpass", "db:5433:*:*:port\ndb:*:app:me:this\\:one\nlocalhost:*:*:me:local\n");
    let request = |host: &str, passfile: Option<PathBuf>| ConnectionRequest {
        host: Some(host.into()),
        user: Some("me".into()),
        database: Some("app".into()),
        passfile,
        environment: environment(&[("HOME", folder.path().to_str().unwrap())]),
        ..ConnectionRequest::default()
    };
    let found = request("db", None).resolve().unwrap();
    assert_eq!(password_of(&found), "this\\:one");
    assert!(request("/var/run/postgresql", None).resolve().unwrap().has_password());
    assert!(!request("elsewhere", None).resolve().unwrap().has_password());

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let error = request("db", None).resolve().unwrap_err();
    assert!(error.message.contains("mode 0640") && error.message.contains("chmod 600"), "f23: {error}");
    let error = request("db", Some(folder.path().join("gone"))).resolve().unwrap_err();
    assert!(error.message.contains("gone"), "{error}");
}

#[test]
fn f24_a_bad_request_is_refused_without_showing_a_secret() {
    let request = ConnectionRequest { user: Some("me".into()), ..ConnectionRequest::default() };
    let bad = [
        ConnectionRequest { url: Some("postgres://me:hunter2@h/d?sslkey=x".into()), ..request.clone() },
        ConnectionRequest { url: Some("http://me:hunter2@h".into()), ..request.clone() },
        ConnectionRequest { sslmode: Some("yes".into()), ..request.clone() },
        ConnectionRequest { host: Some("one,two".into()), ..request.clone() },
        ConnectionRequest { service: Some("nowhere".into()), ..request.clone() },
        ConnectionRequest { environment: environment(&[("PGPORT", "http")]), ..request.clone() },
        ConnectionRequest { user: None, ..request },
    ];
    for request in bad {
        assert!(!format!("{request:?}").contains("hunter2"));
        let error = request.resolve().unwrap_err();
        assert!(!error.full_message().contains("hunter2"), "{}", error.full_message());
    }
}

/// An authority and what it signs.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    fn server(&self, name: &str, expired: bool) -> ScratchTls {
        let mut parameters = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        ScratchTls { certificate, key: SecretString::from(key.serialize_pem()) }
    }
}

fn self_signed(name: &str) -> ScratchTls {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
    ScratchTls { certificate, key: SecretString::from(key.serialize_pem()) }
}

const PASSWORD: &str = "pass:word\\ü";

fn login(server: &ScratchServer, sslmode: &str, roots: Option<&Path>) -> ConnectionRequest {
    ConnectionRequest {
        host: Some("localhost".into()),
        port: Some(server.port()),
        user: Some("postgres".into()),
        sslmode: Some(sslmode.into()),
        sslrootcert: roots.map(|path| path.to_str().unwrap().to_owned()),
        password: Some(SecretString::from(PASSWORD)),
        ..ConnectionRequest::default()
    }
}

/// Whether the driver's session is encrypted.
async fn encrypted(request: &ConnectionRequest) -> Result<bool, PostgresError> {
    let session = request.resolve()?.connect().await?;
    let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(session.client().query_one(query, &[]).await.unwrap().get(0))
}

/// Whether a client tool's session is, by the same login.
fn tool_encrypted(request: &ConnectionRequest) -> Result<bool, String> {
    let environment = request.resolve().unwrap().child_environment().unwrap();
    let query = "--command=SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut spec = ChildSpec::new(find_tool(None, "psql").unwrap(), ["-XAtw", query]);
    spec.environment = environment.variables().clone();
    run_to_end(&spec, SOON).map(|said| said.stdout == b"t\n").map_err(|error| error.to_string())
}

#[tokio::test]
async fn f39_tls_is_verified_as_the_mode_says_and_never_falls_back() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let roots = secret_file(folder.path(), "ca.pem", &ours.certificate);
    let roots = roots.as_path();
    let options = ScratchOptions { password: Some(SecretString::from(PASSWORD)), ..ScratchOptions::default() };
    let mut server = ScratchServer::start(options).unwrap();

    // Without TLS at the server.
    assert!(!encrypted(&login(&server, "prefer", None)).await.unwrap());
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = encrypted(&login(&server, mode, Some(roots))).await.unwrap_err();
        assert_eq!(error.kind, PostgresErrorKind::Tls, "{mode}: {}", error.full_message());
        assert!(tool_encrypted(&login(&server, mode, Some(roots))).is_err(), "{mode}");
    }

    // What each mode takes, least strict first; `require` without named certificates takes any.
    type Accepts = (bool, bool, bool);
    let cases: [(&str, ScratchTls, Accepts, &str); 5] = [
        ("good", ours.server("localhost", false), (true, true, true), ""),
        ("wrong host", ours.server("db.example", false), (true, true, false), "name that the certificate holds"),
        ("expired", ours.server("localhost", true), (true, false, false), "renew"),
        ("self-signed", self_signed("localhost"), (true, false, false), "sslrootcert"),
        ("unknown authority", theirs.server("localhost", false), (true, false, false), "sslrootcert"),
    ];
    for (case, tls, (require, authority, full), hint) in cases {
        server.stop();
        server.set_tls(tls).unwrap();
        server.resume().unwrap();
        for (mode, roots, accepted) in [
            ("require", None, require),
            ("require", Some(roots), authority),
            ("verify-ca", Some(roots), authority),
            ("verify-full", Some(roots), full),
        ] {
            let request = login(&server, mode, roots);
            match encrypted(&request).await {
                Ok(encrypted) => assert!(encrypted && accepted, "{case}: {mode} was content"),
                Err(error) => {
                    assert!(!accepted, "{case}: {mode}: {}", error.full_message());
                    assert_eq!(error.kind, PostgresErrorKind::Tls, "{case}: {mode}: {}", error.full_message());
                    assert!(error.hint.as_ref().unwrap().contains(hint), "{case}: {mode}: {:?}", error.hint);
                }
            }
            let tool = tool_encrypted(&request);
            assert_eq!(tool.as_ref().ok(), accepted.then_some(&true), "{case}: {mode}: the tool: {tool:?}");
        }
        let error = encrypted(&login(&server, "verify-full", None)).await.unwrap_err();
        assert_eq!(error.kind, PostgresErrorKind::Tls, "{case}: the system trusts our authority");
    }
}

#[tokio::test]
async fn logins_are_bound_refused_and_told_apart() {
    let ours = Authority::new("ours");
    let options = ScratchOptions {
        password: Some(SecretString::from(PASSWORD)),
        tls: Some(ours.server("localhost", false)),
        ..ScratchOptions::default()
    };
    let mut server = ScratchServer::start(options).unwrap();
    let bound = |mode: &str| ConnectionRequest {
        url: Some("postgres://?channel_binding=require".into()),
        ..login(&server, mode, None)
    };
    assert!(encrypted(&bound("require")).await.unwrap());
    let error = encrypted(&bound("disable")).await.unwrap_err();
    assert_eq!(error.kind, PostgresErrorKind::Authentication, "{}", error.full_message());

    let kind = async |request: ConnectionRequest| encrypted(&request).await.unwrap_err().kind;
    let request = || login(&server, "require", None);
    let wrong = Some(SecretString::from("wrong"));
    assert_eq!(kind(ConnectionRequest { password: wrong, ..request() }).await, PostgresErrorKind::Authentication);
    assert_eq!(kind(ConnectionRequest { password: None, ..request() }).await, PostgresErrorKind::Authentication);
    let nowhere = Some("nowhere".to_owned());
    assert_eq!(kind(ConnectionRequest { database: nowhere, ..request() }).await, PostgresErrorKind::MissingObject);
    let injected = Some("postgres\"; DROP TABLE x; --".to_owned());
    let error = encrypted(&ConnectionRequest { role: injected, ..request() }).await.unwrap_err();
    assert!(error.full_message().contains("does not exist"), "f82: {}", error.full_message());

    let request = request();
    server.stop();
    let error = encrypted(&request).await.unwrap_err();
    assert_eq!(error.kind, PostgresErrorKind::Unreachable, "{}", error.full_message());
    assert!(error.hint.unwrap().contains("localhost"));
}

#[tokio::test]
async fn a_session_has_an_empty_search_path_and_acts_as_its_role() {
    let server = ScratchServer::start(ScratchOptions::default()).unwrap();
    server.sql("CREATE ROLE \"Dump er\" BYPASSRLS").unwrap();
    let connection = server.connection().unwrap().with_role(Some("Dump er"));
    let session = connection.connect().await.unwrap();
    let row = session.client().query_one("SHOW search_path", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "");
    let facts = ServerFacts::read(&session).await.unwrap();
    assert_eq!((facts.role.name.as_str(), facts.role.bypass_rls, facts.role.superuser), ("Dump er", true, false));
    assert_eq!((facts.encoding.as_str(), facts.in_recovery, facts.database.as_str()), ("UTF8", false, "postgres"));
    assert_eq!(facts.timeline.unwrap().0, 1);
    let told = server.sql("SELECT system_identifier FROM pg_control_system()").unwrap();
    assert_eq!(facts.system_identifier.unwrap().to_string(), told);
    assert_eq!(facts.version_number.to_string(), server.sql("SHOW server_version_num").unwrap());

    server.sql("CREATE DATABASE other").unwrap();
    let other = connection.with_database("other").connect().await.unwrap();
    assert_eq!(ServerFacts::read(&other).await.unwrap().database, "other");

    let place = session.client().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    server.sql(&format!("SELECT pg_terminate_backend({place}, 5000)")).unwrap();
    assert!(session.batch("SELECT 1").await.is_err());
}

#[test]
fn a_tools_login_shows_no_secret_and_leaves_nothing_behind() {
    let request = ConnectionRequest {
        host: Some("db".into()),
        user: Some("me".into()),
        password: Some(SecretString::from("canary-7f3a")),
        ..ConnectionRequest::default()
    };
    let connection = request.resolve().unwrap();
    let login = connection.child_environment().unwrap();
    assert!(!format!("{connection:?} {request:?} {login:?}").contains("canary-7f3a"));
    assert!(login.variables().values().all(|value| !value.to_string_lossy().contains("canary-7f3a")));
    let directory = login.directory().to_owned();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("pgpass"))), (0o700, 0o600));
    drop(login);
    assert!(!directory.exists());
    let broken = ConnectionRequest { password: Some(SecretString::from("a\nb")), ..request };
    assert!(broken.resolve().unwrap().child_environment().is_err());
    assert_eq!(connection.sslmode(), SslMode::Prefer);
}

#[test]
fn f16_client_programs_older_than_the_server_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        let major = if name == "pg_restore" { "13.22" } else { "15.1" };
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{name} (PostgreSQL) {major}'\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    let error = ClientTools::find(Some(folder.path()), 15).unwrap_err();
    let path = folder.path().join("pg_restore");
    assert!(error.message.contains(&format!("pg_restore (PostgreSQL) 13.22 at {}", path.display())), "{error}");
    assert!(error.hint.unwrap().contains("postgresql-client-15"));
    assert_eq!(ClientTools::find(Some(folder.path()), 13).unwrap().major(), 13);

    let empty = tempfile::tempdir().unwrap();
    let error = ClientTools::find(Some(empty.path()), 15).unwrap_err();
    assert!(error.message.contains(&empty.path().display().to_string()), "{error}");
    assert!(ClientTools::find(None, 15).unwrap().major() >= 15);
}
