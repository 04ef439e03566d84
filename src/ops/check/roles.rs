//! Roles that may be no wider than declared: those of `sql/roles/` by what their files say, others by what the plan says.
//!
//! Attributes, memberships, objects owned and privileges are looked at, in the database that the check connects to and in
//! the cluster. Less than declared is no finding here: what is missing shows where it is needed.

use std::collections::BTreeMap;

use crate::model::failure::{Failure, FailureKind};
use crate::ops::check::{CheckLine, again};
use crate::postgres::Session;

const ROLES: &str = "role-privileges";

/// What is named of a role's surplus; the rest is counted.
const NAMED: usize = 5;

/// A role, and all that it may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Its name.
    pub name: String,
    /// Attributes in PostgreSQL's words.
    pub attributes: Vec<String>,
    /// Roles that it is a member of.
    pub member_of: Vec<String>,
    /// Privileges by object.
    pub grants: BTreeMap<String, Vec<String>>,
}

const CHANGES: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE"];

/// The group roles that `sql/roles/` makes: attributes, memberships, and privileges by object.
type Made = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [(&'static str, &'static [&'static str])],
);
const MADE: [Made; 4] = [
    (
        "bc003_app",
        &[],
        &[],
        &[
            ("public.audit_logs", &["SELECT", "INSERT"]),
            ("public.login_attempts", &["SELECT", "INSERT"]),
            ("public.security_events", &["SELECT", "INSERT", "UPDATE (resolved_at)"]),
            ("public.password_history", &["SELECT"]),
            ("public.users", CHANGES),
            ("public.roles", CHANGES),
            ("public.permissions", CHANGES),
            ("public.user_roles", CHANGES),
            ("public.role_permissions", CHANGES),
            ("public.sessions", CHANGES),
            ("public.security_policies", CHANGES),
        ],
    ),
    (
        "dbagent_base",
        &[],
        &["pg_read_all_settings"],
        &[
            ("pg_catalog.pg_backup_start(pg_catalog.text,boolean)", &["EXECUTE"]),
            ("pg_catalog.pg_backup_stop(boolean)", &["EXECUTE"]),
            ("pg_catalog.pg_start_backup(pg_catalog.text,boolean,boolean)", &["EXECUTE"]),
            ("pg_catalog.pg_stop_backup(boolean,boolean)", &["EXECUTE"]),
            ("pg_catalog.pg_switch_wal()", &["EXECUTE"]),
        ],
    ),
    ("dbagent_dump", &["BYPASSRLS"], &["pg_read_all_data"], &[]),
    // What pg_monitor belongs to is PostgreSQL's own affair.
    ("dbagent_mon", &[], &["pg_monitor"], &[]),
];

impl Declared {
    /// What `sql/roles/` makes of the role `name`; nothing when it makes none of that name.
    pub fn made(name: &str) -> Option<Self> {
        let (name, attributes, member_of, grants) = MADE.into_iter().find(|made| made.0 == name)?;
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        Some(Self {
            name: name.to_owned(),
            attributes: owned(attributes),
            member_of: owned(member_of),
            grants: grants.iter().map(|(object, privileges)| ((*object).to_owned(), owned(privileges))).collect(),
        })
    }

    /// Whether `held` is among what it may have.
    fn allows(&self, held: &Held) -> bool {
        let named = |names: &[String], name: &str| names.iter().any(|other| other == name);
        match held.kind.as_str() {
            "role" => true,
            "attribute" => named(&self.attributes, &held.what),
            "member" => held.what.is_empty() && named(&self.member_of, &held.object),
            "grant" => self.grants.iter().any(|(object, privileges)| {
                let same = *object == held.object || held.object.strip_prefix("public.") == Some(object);
                // The whole table's privilege covers that of a column.
                let whole = held.what.split_once(" (").map_or(held.what.as_str(), |(whole, _)| whole);
                let covers = named(privileges, whole) && !held.what.ends_with(" WITH GRANT OPTION");
                same && (covers || named(privileges, &held.what))
            }),
            _ => false,
        }
    }
}

/// One thing that a role is or has.
struct Held {
    kind: String,
    object: String,
    what: String,
}

impl Held {
    fn in_words(&self) -> String {
        let Self { kind, object, what } = self;
        match kind.as_str() {
            "attribute" => what.clone(),
            "member" if what.is_empty() => format!("member of {object}"),
            "member" => format!("member of {object}, and may let others in"),
            "owner" => format!("owner of the {what} {object}"),
            _ => format!("{what} on {object}"),
        }
    }
}

pub(super) async fn check(roles: &[Declared], session: Result<&Session, &Failure>) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    for role in roles {
        let line = match held(role, session).await {
            Ok(held) => judge(role, &held),
            Err(failure) => CheckLine::failed(ROLES, &role.name, &failure),
        };
        lines.push(line);
    }
    lines
}

fn judge(role: &Declared, held: &[Held]) -> CheckLine {
    let name = &role.name;
    let surplus: Vec<String> = held.iter().filter(|held| !role.allows(held)).map(Held::in_words).collect();
    if held.is_empty() {
        return CheckLine::fail(ROLES, format!("{name}: there is no such role"), "make it, or take it out of the plan");
    }
    if surplus.is_empty() {
        return CheckLine::ok(ROLES, format!("{name}: it has nothing but what is declared"));
    }
    let more = match surplus.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message =
        format!("{name}: it has more than is declared: {}{more}", surplus[..surplus.len().min(NAMED)].join(", "));
    CheckLine::fail(ROLES, message, "find out who gave it that; REVOKE or ALTER ROLE takes it away")
}

async fn held(role: &Declared, session: Result<&Session, &Failure>) -> Result<Vec<Held>, Failure> {
    let session = session.map_err(again)?;
    let rows = session.client().query(include_str!("../../../sql/check/role.sql"), &[&role.name]).await;
    let rows = rows.map_err(|error| session.failed("look at a role", error))?;
    let held = |row: &tokio_postgres::Row| -> Result<Held, tokio_postgres::Error> {
        Ok(Held { kind: row.try_get(0)?, object: row.try_get(1)?, what: row.try_get(2)? })
    };
    let held: Result<Vec<Held>, _> = rows.iter().map(held).collect();
    held.map_err(|error| Failure::new(FailureKind::Failed, "read what a role has").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    fn held(kind: &str, object: &str, what: &str) -> Held {
        Held { kind: kind.into(), object: object.into(), what: what.into() }
    }

    #[test]
    fn a_role_may_have_what_is_declared_and_nothing_besides() {
        let role = Declared::made("bc003_app").unwrap();
        let role_row = || held("role", "bc003_app", "");
        let status = |what: Held| judge(&role, &[role_row(), what]).status;
        assert_eq!(judge(&role, &[role_row()]).status, Status::Ok);
        assert_eq!(judge(&role, &[]).status, Status::Fail, "a role that is not there");
        assert_eq!(status(held("grant", "public.users", "UPDATE (name)")), Status::Ok, "the table's covers a column's");
        assert_eq!(status(held("grant", "public.security_events", "UPDATE (resolved_at)")), Status::Ok);
        let wide = [
            held("attribute", "", "SUPERUSER"),
            held("member", "pg_write_all_data", ""),
            held("owner", "public.users", "table"),
            held("grant", "public.security_events", "UPDATE (severity)"),
            held("grant", "public.audit_logs", "DELETE"),
            held("grant", "public.users", "SELECT WITH GRANT OPTION"),
            held("grant", "app.users", "SELECT"),
        ];
        for what in wide {
            let words = what.in_words();
            assert_eq!(status(what), Status::Fail, "{words}");
        }
    }

    #[test]
    fn a_surplus_is_named_up_to_a_point_and_counted() {
        let role = Declared { name: "r".into(), ..Declared::default() };
        let many: Vec<Held> = (0..7).map(|n| held("grant", &format!("public.t{n}"), "SELECT")).collect();
        let line = judge(&role, &many);
        assert!(line.message.ends_with("SELECT on public.t4 and 2 more"), "{}", line.message);
    }
}
