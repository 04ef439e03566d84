//! The commands of the run-book "V2 to V3", as they stand there, on a plain table of V2 with what such a table has.

use std::process::{Command, Output};

use crate::audit_stage::{INTEGRITY, insert};
use crate::bc003_server;
use crate::cli::Desk;

/// The audit log of V2: plain, with a foreign key, a key of its own and rows that nobody has chained.
const V2: &str = "
DROP TABLE public.audit_logs CASCADE;
CREATE TABLE public.audit_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), user_id uuid REFERENCES public.users ON DELETE SET NULL, session_id uuid,
    action varchar(100), resource varchar(200), resource_id varchar(100), details jsonb, ip_address varchar(45),
    user_agent varchar(500), success boolean, error_code varchar(50), error_message text,
    recorded_at timestamp NOT NULL DEFAULT timezone('UTC', clock_timestamp()));
CREATE INDEX audit_logs_recorded_at_idx ON public.audit_logs (recorded_at);
CREATE TRIGGER audit_logs_protect_rows BEFORE UPDATE OR DELETE ON public.audit_logs
    FOR EACH ROW EXECUTE FUNCTION public.protect_audit_rows();
GRANT SELECT, INSERT ON public.audit_logs TO bc003_app;
INSERT INTO public.audit_logs (action, resource_id, details, success, recorded_at)
    SELECT 'invoice.view', n::text, jsonb_build_object('n', n), n % 3 > 0, timezone('UTC', now()) - n * interval '3 hours'
    FROM generate_series(1, 2000) n;";

const PLAN: &str = "description = 'the log'\n[job.full]\nverb = 'dump'\nschedule = '0 3 * * *'\ntables = ['audit_logs', 'users']\n\
    [job.partitions]\nverb = 'partition'\n[job.checkpoint]\nverb = 'audit-checkpoint'\n\
    [partition.audit_logs]\nkey = 'recorded_at'\nretention = '36 months'\nseal = true\n";

/// What a row says, whatever its hashes.
const CONTENT: &str = "SELECT md5(string_agg(concat_ws('|', id, action, resource_id, details, success, recorded_at), ',' ORDER BY id)) \
    FROM audit_logs WHERE resource IS NULL";

/// The one block of commands in the run-book.
fn commands() -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/runbooks/v2-to-v3.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks: Vec<&str> = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(blocks.len(), 1, "one sequence");
    blocks[0].to_owned()
}

/// Runs the commands as somebody at a shell does, with this fault.
fn run(desk: &Desk, commands: &str, fault: Option<&str>) -> Output {
    let folder = desk.site.root().join("bin");
    std::fs::create_dir_all(&folder).unwrap();
    let wrapper = folder.join("dbagent");
    let script =
        format!("#!/bin/sh\nexec {} --config {} \"$@\"\n", env!("CARGO_BIN_EXE_dbagent"), desk.config.display());
    std::fs::write(&wrapper, script).unwrap();
    std::fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", folder.display()));
    shell.env("HOME", desk.site.root()).env("PGHOST", desk.site.server.directory()).env("PGDATABASE", "shop");
    shell.env("PGPORT", desk.site.server.port().to_string()).env("PGUSER", desk.site.connection().user());
    if let Some(fault) = fault {
        shell.env("DBAGENT_FAILPOINT", fault).env("DBAGENT_FAILPOINT_LOG", desk.site.root().join("fired"));
    }
    shell.arg("-c").arg(commands).output().unwrap()
}

fn desk() -> Desk {
    let desk = bc003_server::desk(Some(PLAN));
    desk.site.ask(V2);
    desk
}

#[test]
fn the_run_books_commands_make_v3_out_of_v2_and_may_be_run_again() {
    let desk = desk();
    let before = desk.site.ask(CONTENT);
    let commands = commands();
    // Killed while it copies, and once more while it is compared: then again from the top.
    #[cfg(feature = "failpoints")]
    for fault in ["convert.month_copied=kill:3", "convert.swapped=kill"] {
        let killed = run(&desk, &commands, Some(fault));
        assert!(!killed.status.success(), "{fault}: {}", String::from_utf8_lossy(&killed.stderr));
        let fired = std::fs::read_to_string(desk.site.root().join("fired")).unwrap();
        assert!(fired.contains("Kill"), "{fault} did not fire");
        std::fs::remove_file(desk.site.root().join("fired")).unwrap();
        desk.site.ask(&insert(1));
    }
    for time in 1..=2 {
        let done = run(&desk, &commands, None);
        assert!(done.status.success(), "time {time}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(desk.site.ask(CONTENT), before, "content was changed");
    assert_eq!(desk.site.ask(&format!("SELECT ({INTEGRITY})")), "whole");
    desk.site.ask(&format!("SET ROLE bc003_app; {}", insert(3)));
    assert_eq!(desk.site.ask(&format!("SELECT ({INTEGRITY})")), "whole");
    let form = "SELECT relkind, (SELECT count(*) FROM pg_class WHERE relname LIKE 'dbagent_%'), \
        (SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = c.oid), \
        (SELECT attname FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = c.oid AND attname = 'hash') \
        FROM pg_class c WHERE oid = 'audit_logs'::regclass";
    assert_eq!(desk.site.ask(form), "p|0|audit_logs_protect_rows zz_audit_chain|");
    desk.json(0, &["audit", "verify"]);
}
