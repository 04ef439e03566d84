//! The security posture that a plan's `[check]` asks for: a server's guards, roles no wider than declared, how long logs and
//! backups are kept, here and at Amazon RDS (moto in its place).

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use dbagent::ops::check::Declared;

use crate::bc003_server;
use crate::check_services::{lines, statuses, with_checks};
use crate::cli::Desk;
use crate::stage::moto::Moto;
use crate::stage::site::{Site, TABLES};

#[test]
fn tables_without_their_guards_and_a_connection_without_tls_fail() {
    let site = Site::new();
    site.ask(
        "ALTER TABLE customers ENABLE ROW LEVEL SECURITY; \
         CREATE FUNCTION audit_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
         CREATE TRIGGER watch AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION audit_it(); \
         CREATE TRIGGER watch AFTER INSERT ON customers FOR EACH ROW EXECUTE FUNCTION audit_it(); \
         ALTER TABLE customers DISABLE TRIGGER watch",
    );
    let desk = Desk::at(site, &TABLES);
    with_checks(
        &desk,
        "tls = true\nrow_level_security = ['customers', 'public.orders', 'gone']\naudit_triggers = ['orders', 'customers']\n",
    );
    assert_eq!(statuses(&desk, "server-tls"), ["fail"], "a socket has no TLS");
    assert_eq!(statuses(&desk, "row-level-security"), ["ok", "fail", "fail"]);
    assert_eq!(statuses(&desk, "audit-triggers"), ["ok", "fail"], "a disabled trigger is none");
}

#[test]
fn audit_columns_that_are_gone_are_named() {
    let site = Site::new();
    site.ask("CREATE TABLE audit_logs (id int, old_values jsonb, changed_fields text[]); ALTER TABLE audit_logs DROP COLUMN changed_fields");
    let desk = Desk::at(site, &TABLES);
    with_checks(
        &desk,
        "audit_columns = ['old_values', 'new_values', 'changed_fields', 'customers.name', 'public.gone.x']\n",
    );
    let told = lines(&desk, "audit-columns");
    assert_eq!(told.iter().map(|line| line.0.as_str()).collect::<Vec<_>>(), ["fail", "ok", "fail"], "{told:?}");
    assert_eq!(told[0].1, "audit_logs: it has no column new_values, changed_fields");
    assert!(told[2].1.contains("find the table public.gone"), "{told:?}");
}

#[test]
fn what_is_stored_is_priced() {
    let desk = Desk::new();
    assert_eq!(statuses(&desk, "storage-cost"), [""; 0], "nobody asks");
    desk.json(0, &["job", "run", "full"]);
    desk.configure("[cost]\ncurrency = 'EUR'\nmonthly_limit = 1000.0\nper_gib = { local = 100000000.0 }\n");
    let told = lines(&desk, "storage-cost");
    let warns =
        told[0].0 == "warn" && told[0].1.contains("local STANDARD") && told[0].1.contains("1000.00 is the limit");
    assert!(warns, "{told:?}");
    let cost = &desk.json(3, &["status"])["cost"];
    let held = &cost["held"][0];
    assert!(held["repository"] == "local" && held["class"] == "STANDARD" && held["own_disk"] == true, "{cost}");
    assert!(cost["monthly"].as_f64().unwrap() > 1000.0 && cost["monthly"] == held["monthly"], "{cost}");
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("local = 100000000.0", "local = 0.1")).unwrap();
    assert_eq!(statuses(&desk, "storage-cost"), ["ok"]);
}

/// Everything that role.sql says of `role`, in one line each.
fn held(desk: &Desk, role: &str) -> BTreeSet<String> {
    let query = include_str!("../../sql/check/role.sql").replace("$1::pg_catalog.text", &format!("'{role}'"));
    let rows = desk.site.ask(&format!("SELECT kind || '|' || object || '|' || what FROM ({query}) AS held"));
    rows.lines().filter(|line| !line.starts_with("role|")).map(str::to_owned).collect()
}

/// The same as declared.
fn declared(role: &str) -> BTreeSet<String> {
    let role = Declared::made(role).unwrap();
    let attributes = role.attributes.iter().map(|name| format!("attribute||{name}"));
    let members = role.member_of.iter().map(|name| format!("member|{name}|"));
    let grants = role
        .grants
        .iter()
        .flat_map(|(object, privileges)| privileges.iter().map(move |privilege| format!("grant|{object}|{privilege}")));
    attributes.chain(members).chain(grants).collect()
}

#[test]
fn f98_roles_are_what_their_files_make_them_and_each_widening_is_told() {
    let desk = bc003_server::desk(None);
    desk.site.ask(include_str!("../../sql/roles/dbagent_base.sql"));
    for role in ["bc003_app", "dbagent_dump", "dbagent_mon"] {
        assert_eq!(held(&desk, role), declared(role), "{role}");
    }
    let base = held(&desk, "dbagent_base");
    assert!(base.len() == 4 && base.is_subset(&declared("dbagent_base")), "{base:?}");

    desk.site.ask(
        "CREATE ROLE cleaner LOGIN; GRANT SELECT, DELETE ON customers TO cleaner; CREATE ROLE lord NOLOGIN SUPERUSER",
    );
    with_checks(
        &desk,
        "roles = ['bc003_app', 'dbagent_base', 'dbagent_dump', 'dbagent_mon']\n\
         [check.role.cleaner]\nattributes = ['LOGIN']\ngrants = { customers = ['SELECT', 'DELETE'] }\n",
    );
    assert_eq!(statuses(&desk, "role-privileges"), ["ok"; 5], "{:?}", lines(&desk, "role-privileges"));

    // Each of these alone, and taken back again.
    let widenings = [
        ("ALTER ROLE bc003_app CREATEDB", "ALTER ROLE bc003_app NOCREATEDB", 0, "CREATEDB"),
        (
            "GRANT UPDATE ON audit_logs TO bc003_app",
            "REVOKE UPDATE ON audit_logs FROM bc003_app",
            0,
            "UPDATE on public.audit_logs",
        ),
        (
            "GRANT UPDATE (severity) ON security_events TO bc003_app",
            "REVOKE UPDATE (severity) ON security_events FROM bc003_app",
            0,
            "UPDATE (severity) on",
        ),
        (
            "GRANT EXECUTE ON FUNCTION pg_read_file(text) TO dbagent_base",
            "REVOKE EXECUTE ON FUNCTION pg_read_file(text) FROM dbagent_base",
            1,
            "EXECUTE on pg_catalog.pg_read_file",
        ),
        (
            "GRANT pg_write_all_data TO dbagent_dump",
            "REVOKE pg_write_all_data FROM dbagent_dump",
            2,
            "member of pg_write_all_data",
        ),
        (
            "GRANT cleaner TO dbagent_mon; GRANT lord TO cleaner",
            "REVOKE cleaner FROM dbagent_mon; REVOKE lord FROM cleaner",
            3,
            "member of cleaner, member of lord",
        ),
        (
            "ALTER TABLE orders OWNER TO cleaner",
            "ALTER TABLE orders OWNER TO CURRENT_USER",
            4,
            "owner of the table public.orders",
        ),
        (
            "GRANT CREATE ON SCHEMA public TO cleaner",
            "REVOKE CREATE ON SCHEMA public FROM cleaner",
            4,
            "CREATE on public",
        ),
        (
            "GRANT SELECT ON customers TO cleaner WITH GRANT OPTION",
            "REVOKE GRANT OPTION FOR SELECT ON customers FROM cleaner",
            4,
            "WITH GRANT OPTION",
        ),
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO cleaner",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM cleaner",
            4,
            "something on",
        ),
    ];
    for (widen, narrow, at, words) in widenings {
        desk.site.ask(widen);
        let told = lines(&desk, "role-privileges");
        assert!(told[at].0 == "fail" && told[at].1.contains(words), "{widen}: {told:?}");
        desk.site.ask(narrow);
    }
    assert_eq!(statuses(&desk, "role-privileges"), ["ok"; 5]);
    desk.site.ask("DROP OWNED BY cleaner; DROP ROLE cleaner");
    assert_eq!(statuses(&desk, "role-privileges")[4], "fail", "a role that is gone");
}

#[test]
fn the_servers_own_logs_must_be_there_for_as_long_as_is_asked() {
    let desk = Desk::new();
    with_checks(&desk, "log_retention = '30 days'\nbackup_retention = '30 days'\n");
    let told = lines(&desk, "log-retention");
    assert!(told[0].0 == "warn" && told[0].1.contains("logging_collector is off"), "{told:?}");
    assert_eq!(statuses(&desk, "backup-retention"), ["ok"]);
    with_checks_instead(&desk, "backup_retention = '31 days'\n");
    assert_eq!(statuses(&desk, "backup-retention"), ["fail"], "{:?}", lines(&desk, "backup-retention"));

    let collecting = Collecting::start();
    let (desk, logs) = (&collecting.0, collecting.0.site.server.data_directory().join("log"));
    with_checks(desk, "log_retention = '30 days'\n");
    let told = lines(desk, "log-retention");
    assert!(told[0].0 == "ok" && told[0].1.contains("as is the cluster"), "{told:?}");
    for file in std::fs::read_dir(&logs).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    let told = lines(desk, "log-retention");
    assert!(told[0].0 == "fail" && told[0].1.contains("no log file"), "{told:?}");
}

/// A desk whose server keeps its logs in files of its own, which is nothing that a scratch server is started with.
struct Collecting(Desk);

impl Collecting {
    fn start() -> Self {
        let mut desk = Desk::new();
        desk.site.server.stop();
        let (socket, port) = (desk.site.server.directory().display().to_string(), desk.site.server.port());
        let options =
            format!("-c port={port} -c listen_addresses= -c unix_socket_directories={socket} -c logging_collector=on");
        let collecting = Self(desk);
        collecting.control(&["start", "-w", "-o", &options]);
        collecting
    }

    fn control(&self, arguments: &[&str]) {
        use std::os::unix::process::CommandExt as _;
        let server = &self.0.site.server;
        let mut command = Command::new(dbagent::postgres::find_tool(None, "pg_ctl").unwrap());
        if let Some((user, group)) = server.run_as() {
            command.gid(group).uid(user);
        }
        command.args(arguments).arg("-s").arg("-D").arg(server.data_directory());
        // The server holds what it is given for as long as it runs.
        command.current_dir(server.directory()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "pg_ctl {arguments:?}");
    }
}

impl Drop for Collecting {
    fn drop(&mut self) {
        self.control(&["stop", "-m", "immediate"]);
    }
}

/// The plan with these checks in the place of those it has.
fn with_checks_instead(desk: &Desk, checks: &str) {
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text.split("[check]").next().unwrap()).unwrap();
    with_checks(desk, checks);
}

/// Does what `body` asks of `service`, over plain HTTP as moto takes it.
fn amazon(moto: &Moto, service: &str, target: Option<&str>, body: &str) {
    let kind = if target.is_some() { "x-amz-json-1.1" } else { "x-www-form-urlencoded" };
    let login = format!(
        "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=x"
    );
    let mut command = Command::new("curl");
    command.args(["-sf", "-X", "POST", &moto.endpoint(), "-d", body]);
    command.args(["-H", &format!("Content-Type: application/{kind}"), "-H", &format!("Authorization: {login}")]);
    command.args(target.iter().flat_map(|target| ["-H".to_owned(), format!("X-Amz-Target: Logs_20140328.{target}")]));
    let done = command.output().unwrap();
    assert!(done.status.success(), "{service} {body}: {}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn what_amazon_rds_keeps_is_asked_and_held_against_the_plan() {
    let moto = Moto::start();
    let mut desk = Desk::new();
    desk.environment = vec![
        ("AWS_ENDPOINT_URL", moto.endpoint()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "a".into()),
        ("AWS_SECRET_ACCESS_KEY", "b".into()),
    ];
    with_checks(&desk, "log_retention = '30 days'\nbackup_retention = '7 days'\nrds_cluster = 'shop'\n");
    let told = lines(&desk, "backup-retention");
    assert!(told[1].0 == "fail" && told[1].1.contains("shop"), "a cluster that is not there: {told:?}");
    let told = lines(&desk, "log-retention");
    assert!(told[0].0 == "fail" && told[0].1.contains("not exported"), "{told:?}");

    amazon(
        &moto,
        "rds",
        None,
        "Action=CreateDBCluster&Version=2014-10-31&DBClusterIdentifier=shop&Engine=aurora-postgresql&\
         MasterUsername=root&MasterUserPassword=password1&BackupRetentionPeriod=3",
    );
    let group = "\"logGroupName\": \"/aws/rds/cluster/shop/postgresql\"";
    amazon(&moto, "logs", Some("CreateLogGroup"), &format!("{{{group}}}"));
    amazon(&moto, "logs", Some("PutRetentionPolicy"), &format!("{{{group}, \"retentionInDays\": 14}}"));
    let told = lines(&desk, "backup-retention");
    assert!(told[1].0 == "fail" && told[1].1.contains("for 3 days"), "{told:?}");
    let told = lines(&desk, "log-retention");
    assert!(told[0].0 == "fail" && told[0].1.contains("for 14 days"), "{told:?}");

    amazon(&moto, "logs", Some("PutRetentionPolicy"), &format!("{{{group}, \"retentionInDays\": 30}}"));
    amazon(
        &moto,
        "rds",
        None,
        "Action=ModifyDBCluster&Version=2014-10-31&DBClusterIdentifier=shop&BackupRetentionPeriod=7",
    );
    assert_eq!(statuses(&desk, "log-retention"), ["ok"]);
    let told = lines(&desk, "backup-retention");
    assert_eq!([&told[0].0, &told[1].0], ["ok", "ok"], "{told:?}");
}
