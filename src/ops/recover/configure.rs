//! What PostgreSQL is told in the copy: where the log comes from, where to end, what must not be lower, not to archive.
//!
//! Goes into `postgresql.auto.conf`, which PostgreSQL reads last; what the cluster had there stays before it. The copy
//! has the primary's system identifier, so that its archiving is off unless it takes the primary's place.

use std::fmt::Write as _;
use std::path::Path;

use crate::host::{durable, files};
use crate::model::base::{BaseRecord, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::Lsn;
use crate::ops::recover::directory::Place;
use crate::ops::recover::{Doors, Options, Plan};
use crate::postgres::base_backup::MUST_MATCH;

const AUTO: &str = "postgresql.auto.conf";
const CONFIGURATION: &str = "postgresql.conf";
const HBA: &str = "pg_hba.conf";
const BEGIN: &str = "# dbagent restore: begin";
const END: &str = "# dbagent restore: end";
const LIMIT: u64 = 16 << 20;

/// Settings that would lead a copy back into the directory it was copied from.
const LEAD_AWAY: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// What keeps a copy from acting on the world outside as if it were the primary: on the archive, and on the publishers of
/// its subscriptions, whose slots are the primary's.
const KEEP_TO_ITSELF: [(&str, &str); 4] = [
    ("archive_mode", "off"),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("max_logical_replication_workers", "0"),
];

/// Files of a server that ran on the original; base backups of older versions may hold some of them.
const STALE: [&str; 5] =
    ["standby.signal", "postmaster.pid", "postmaster.opts", "backup_label.old", "tablespace_map.old"];

/// The first version that reads the log ahead of what it replays (manual, "recovery_prefetch"). It would ask for segments
/// behind the target, and one of them that is damaged would end the recovery before it.
const FIRST_PREFETCHING: u32 = 15;

/// Writes everything but the control file.
pub(super) fn write(plan: &Plan, options: &Options, place: &Place, doors: &Doors) -> Result<(), Failure> {
    let root = &place.root;
    put(root, TABLESPACE_MAP, &tablespace_map(place))?;
    let had = read(root, AUTO)?.unwrap_or_default();
    put(root, AUTO, &format!("{}{}", without_block(&had), block(plan, options, doors)))?;
    let main = match read(root, CONFIGURATION)? {
        Some(text) => without_leads(&text),
        None => "# The cluster had its configuration elsewhere; see postgresql.auto.conf for what recovery needs.\n"
            .to_owned(),
    };
    put(root, CONFIGURATION, &main)?;
    if read(root, HBA)?.is_none() {
        put(root, HBA, "# The cluster had this file elsewhere. Let in whom you need.\nlocal all all peer\n")?;
    }
    if read(root, "pg_ident.conf")?.is_none() {
        put(root, "pg_ident.conf", "")?;
    }
    remove_stale(root)?;
    put(root, "recovery.signal", "")
}

/// Takes away what belongs to a server that ran on the original, and would stop or mislead the copy's.
fn remove_stale(root: &Path) -> Result<(), Failure> {
    let failed = |error: durable::FileError| {
        Failure::new(FailureKind::Failed, format!("look into the copy in {}", root.display())).because(error)
    };
    let is_socket = |name: &String| name.starts_with(".s.PGSQL.");
    let sockets = durable::names_in(root).map_err(failed)?.into_iter().filter(is_socket);
    for stale in STALE.map(str::to_owned).into_iter().chain(sockets) {
        files::remove_if_there(&root.join(&stale)).map_err(|error| unwritten(&stale).because(error))?;
    }
    Ok(())
}

/// The lines that recovery needs.
fn block(plan: &Plan, options: &Options, doors: &Doors) -> String {
    let mut lines = vec![
        ("restore_command", doors.restore_command(plan)),
        ("recovery_target_timeline", plan.timeline.0.to_string()),
    ];
    lines.extend(options.target.setting());
    if options.target.setting().is_some() {
        lines.push(("recovery_target_action", options.action.name().to_owned()));
        lines.push(("recovery_target_inclusive", if options.exclusive { "off" } else { "on" }.to_owned()));
    }
    if plan.base.major >= FIRST_PREFETCHING {
        lines.push(("recovery_prefetch", "off".to_owned()));
    }
    if !options.takeover {
        lines.extend(KEEP_TO_ITSELF.map(|(name, value)| (name, value.to_owned())));
    }
    lines.extend(must_match(&plan.base));
    // A name may hold what would end the line, and a comment with it.
    let target = options.target.to_string().replace(char::is_control, " ");
    let mut text = format!("{BEGIN}\n# {} to {target}\n", plan.artifact.name);
    for (name, value) in lines {
        // Into a string that cannot fail.
        let _ = writeln!(text, "{name} = '{}'", quoted(&value));
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// As PostgreSQL reads it between quotes (`GUC_scanstr`): a backslash there makes something else of what follows it.
fn quoted(value: &str) -> String {
    value.replace('\\', r"\\").replace('\'', "''").replace('\n', r"\n").replace('\r', r"\r")
}

fn must_match(base: &BaseRecord) -> impl Iterator<Item = (&'static str, String)> + '_ {
    MUST_MATCH.into_iter().filter_map(|name| Some((name, base.settings.get(name)?.clone())))
}

/// `text` without what an earlier restore wrote, ending with a line end.
fn without_block(text: &str) -> String {
    let mut within = false;
    let mut kept = String::new();
    for line in text.lines() {
        within |= line == BEGIN;
        if !within {
            kept.push_str(line);
            kept.push('\n');
        }
        within &= line != END;
    }
    kept
}

/// `text` with the settings commented out that lead away from the copy.
fn without_leads(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        let name = line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        if LEAD_AWAY.iter().any(|lead| lead.eq_ignore_ascii_case(name)) {
            kept.push_str("# dbagent restore: ");
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// `oid path` a line; a backslash before what would end the line (PostgreSQL, `do_pg_backup_start`).
fn tablespace_map(place: &Place) -> String {
    let escape = |path: &Path| {
        let mut escaped = String::new();
        for c in path.to_string_lossy().chars() {
            if matches!(c, '\n' | '\r' | '\\') {
                escaped.push('\\');
            }
            escaped.push(c);
        }
        escaped
    };
    place.tablespaces.iter().map(|(tablespace, path)| format!("{} {}\n", tablespace.oid, escape(path))).collect()
}

fn read(root: &Path, name: &str) -> Result<Option<String>, Failure> {
    match durable::read_bounded(&root.join(name), LIMIT) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind == durable::FileErrorKind::Missing => Ok(None),
        Err(error) => Err(Failure::new(FailureKind::Failed, format!("read the copy's {name}")).because(error)),
    }
}

fn put(root: &Path, name: &str, text: &str) -> Result<(), Failure> {
    if name == TABLESPACE_MAP && text.is_empty() {
        return Ok(());
    }
    durable::replace(&root.join(name), text.as_bytes()).map_err(|error| unwritten(name).because(error))
}

fn unwritten(name: &str) -> Failure {
    Failure::new(FailureKind::Failed, format!("write the copy's {name}"))
        .hint("Look at the room that is left, and run it again.")
}

/// Changes where recovery ends, in a copy that was configured: after everything that is there was replayed and the target
/// was not found beyond it.
pub(super) fn end_at_position(root: &Path, position: Lsn) -> Result<(), Failure> {
    put(root, AUTO, &ending_at(&read(root, AUTO)?.unwrap_or_default(), position))
}

/// `text` with the target time replaced by `position`, whose own record is replayed: whether the target's is wanted was
/// said of the time.
fn ending_at(text: &str, position: Lsn) -> String {
    let lines = text.lines().map(|line| match line.split_once(" = ") {
        Some(("recovery_target_time", _)) => format!("recovery_target_lsn = '{position}'\n"),
        Some(("recovery_target_inclusive", _)) => "recovery_target_inclusive = 'on'\n".to_owned(),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_restore_wrote_is_replaced_and_the_rest_stays() {
        let text = format!("work_mem = '8MB'\n{BEGIN}\nrestore_command = 'x'\n{END}\nport = 5433\n");
        assert_eq!(without_block(&text), "work_mem = '8MB'\nport = 5433\n");
        assert_eq!(without_block("a = 1"), "a = 1\n");
    }

    #[test]
    fn the_record_at_the_end_of_the_log_is_replayed_although_what_is_at_the_target_time_is_not_wanted() {
        let text = "port = 1\nrecovery_target_time = 'x'\nrecovery_target_action = 'pause'\nrecovery_target_inclusive = 'off'\n";
        let expected = "port = 1\nrecovery_target_lsn = '0/28'\nrecovery_target_action = 'pause'\nrecovery_target_inclusive = 'on'\n";
        assert_eq!(ending_at(text, Lsn(0x28)), expected);
    }

    #[test]
    fn what_a_shell_has_to_read_is_quoted_once_more_for_postgresql() {
        // The shell's word for a folder called o'brien.
        assert_eq!(quoted(r"'o'\''brien'"), r"''o''\\''''brien''");
        assert_eq!(quoted("two\nlines"), r"two\nlines");
    }

    #[test]
    fn settings_that_lead_back_to_the_original_are_taken_out() {
        let text = "data_directory = '/var/lib/pg'\n  HBA_FILE='/etc/x'\nshared_buffers = 1GB\n#ident_file = ''\nexternal_pid_file '/run/x'\n";
        let kept = without_leads(text);
        let live: Vec<&str> = kept.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(live, ["shared_buffers = 1GB"]);
    }
}
