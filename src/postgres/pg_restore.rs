//! Command lines of pg_restore: one section of a schema archive into one database, or some of its entries as a script.
//!
//! Rows never go through it: they are loaded by COPY. It stops at the first error, because a schema that is half there
//! proves nothing. A script is never given to psql: its statements are taken out of it one by one ([`statements`]).

use std::ffi::OsString;
use std::path::Path;

use crate::host::ChildSpec;
use crate::model::table::{QualifiedTable, quote_identifier};
use crate::postgres::environment::ChildEnvironment;
use crate::postgres::tools::ClientTools;

/// How to run it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// `pre-data` or `post-data` (PostgreSQL manual, pg_restore, `--section`).
    pub section: &'a str,
    /// Connections at once.
    pub jobs: usize,
    /// Leave owners and privileges out.
    pub no_owner: bool,
}

/// pg_restore of the archive `file` into `database`.
pub fn from_file(
    tools: &ClientTools,
    environment: &ChildEnvironment,
    database: &str,
    file: &Path,
    options: Options<'_>,
) -> ChildSpec {
    let mut arguments: Vec<OsString> = vec![
        "--exit-on-error".into(),
        "--no-password".into(),
        format!("--section={}", options.section).into(),
        format!("--jobs={}", options.jobs.max(1)).into(),
        format!("--dbname={}", connection_string(database)).into(),
    ];
    if options.no_owner {
        arguments.extend(["--no-owner".into(), "--no-privileges".into()]);
    }
    arguments.extend(environment.role_argument());
    arguments.push(file.into());
    let mut spec = ChildSpec::new(&tools.pg_restore.path, arguments);
    spec.environment = environment.variables().clone();
    spec.label = format!("pg_restore --section={}", options.section);
    spec
}

/// pg_restore that prints the statement which makes `table` of the archive `file`, without its indexes and constraints.
pub fn table_script(tools: &ClientTools, table: &QualifiedTable, file: &Path) -> ChildSpec {
    let arguments: [OsString; 8] = [
        "--section=pre-data".into(),
        "--no-owner".into(),
        "--no-privileges".into(),
        format!("--schema={}", table.schema).into(),
        format!("--table={}", table.name).into(),
        "--file=-".into(),
        "--".into(),
        file.into(),
    ];
    script(tools, arguments, "pg_restore --table")
}

/// pg_restore that lists the entries of the archive `file`, those of the database itself included.
pub fn list(tools: &ClientTools, file: &Path) -> ChildSpec {
    script(tools, ["--create".into(), "--list".into(), "--".into(), file.into()], "pg_restore --list")
}

/// pg_restore that lists the entry which makes `table` in the archive `file`.
pub fn list_table(tools: &ClientTools, table: &QualifiedTable, file: &Path) -> ChildSpec {
    let (schema, name) = (format!("--schema={}", table.schema), format!("--table={}", table.name));
    script(tools, ["--list".into(), schema.into(), name.into(), "--".into(), file.into()], "pg_restore --list")
}

/// pg_restore that lists the entries of the archive `file` with what each depends on.
pub fn list_with_dependencies(tools: &ClientTools, file: &Path) -> ChildSpec {
    script(tools, ["--list".into(), "--verbose".into(), "--".into(), file.into()], "pg_restore --list")
}

/// pg_restore that prints the entries of the archive `file` that the file `chosen` lists; none of the database itself.
pub fn entries_script(tools: &ClientTools, chosen: &Path, file: &Path) -> ChildSpec {
    let mut list = OsString::from("--use-list=");
    list.push(chosen);
    script(tools, [list, "--file=-".into(), "--".into(), file.into()], "pg_restore --use-list")
}

/// pg_restore that prints those entries of the archive `file` that the file `chosen` lists.
pub fn chosen_script(tools: &ClientTools, chosen: &Path, file: &Path) -> ChildSpec {
    let mut list = OsString::from("--use-list=");
    list.push(chosen);
    let arguments = ["--create".into(), list, "--file=-".into(), "--".into(), file.into()];
    script(tools, arguments, "pg_restore --use-list")
}

/// pg_restore of those entries of the archive `file` that the file `chosen` lists, into `database`.
pub fn chosen_into(
    tools: &ClientTools,
    environment: &ChildEnvironment,
    database: &str,
    (chosen, file): (&Path, &Path),
    no_owner: bool,
) -> ChildSpec {
    let mut list = OsString::from("--use-list=");
    list.push(chosen);
    let mut arguments: Vec<OsString> = vec![
        "--exit-on-error".into(),
        "--no-password".into(),
        list,
        format!("--dbname={}", connection_string(database)).into(),
    ];
    if no_owner {
        arguments.extend(["--no-owner".into(), "--no-privileges".into()]);
    }
    arguments.extend(environment.role_argument());
    arguments.push(file.into());
    let mut spec = ChildSpec::new(&tools.pg_restore.path, arguments);
    spec.environment = environment.variables().clone();
    spec.label = "pg_restore --use-list".to_owned();
    spec
}

fn script<const N: usize>(tools: &ClientTools, arguments: [OsString; N], label: &str) -> ChildSpec {
    let mut spec = ChildSpec::new(&tools.pg_restore.path, arguments);
    spec.label = label.to_owned();
    spec
}

/// Whether a line of [`list`] is an entry about the database itself: its owner, settings, comment, privileges.
/// (PostgreSQL, src/bin/pg_dump/pg_backup_archiver.c, PrintTOCSummary: `id; oid oid DESC schema tag owner`.)
pub fn is_of_database(line: &str) -> bool {
    let Some((_, entry)) = line.split_once("; ") else { return false };
    let entry = entry.splitn(3, ' ').nth(2).unwrap_or_default();
    ["DATABASE - ", "DATABASE PROPERTIES - ", "COMMENT - DATABASE ", "ACL - DATABASE ", "SECURITY LABEL - DATABASE "]
        .iter()
        .any(|kind| entry.starts_with(kind))
}

/// What an entry of an archive has to do with large objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargeObjectEntry {
    /// It makes one, or (clients 17 and later) many that belong together, with their owner.
    Itself,
    /// It is their privileges, comment or label.
    About,
}

impl LargeObjectEntry {
    /// What the line of [`list`] is; nothing for an entry of something else.
    pub fn of(line: &str) -> Option<Self> {
        let (_, entry) = line.split_once("; ")?;
        let entry = entry.splitn(3, ' ').nth(2)?;
        let begins = |kinds: &[&str]| kinds.iter().any(|kind| entry.starts_with(kind));
        if begins(&["BLOB - ", "BLOB METADATA - "]) {
            return Some(Self::Itself);
        }
        let about = ["ACL - LARGE OBJECT", "COMMENT - LARGE OBJECT", "SECURITY LABEL - LARGE OBJECT"];
        begins(&about).then_some(Self::About)
    }
}

/// The SQL statements of a script that pg_restore printed, without psql's own commands and without comments. Made for
/// statements without dollar quotes, with literals as standard_conforming_strings has them.
pub fn statements(script: &str) -> Vec<String> {
    let (mut statements, mut statement, mut quote, mut depth) = (Vec::new(), String::new(), None, 0_i32);
    for line in script.split_inclusive('\n') {
        let blank = line.trim().is_empty();
        if statement.is_empty() && (blank || line.starts_with('\\') || line.starts_with("--")) {
            continue;
        }
        for character in line.chars() {
            quote = match (quote, character) {
                (None, '\'' | '"') => Some(character),
                (Some(open), _) if open == character => None,
                (open, _) => open,
            };
            // A rule may have several statements, in parentheses.
            depth += match (quote, character) {
                (None, '(') => 1,
                (None, ')') => -1,
                _ => 0,
            };
        }
        statement.push_str(line);
        if quote.is_none() && depth <= 0 && line.trim_end().ends_with(';') {
            statements.push(std::mem::take(&mut statement).trim_end().trim_end_matches(';').to_owned());
            depth = 0;
        }
    }
    statements
}

/// `statement`, which is about a database, for the one called `name`; nothing when it is about none.
pub fn for_database(statement: &str, name: &str) -> Option<String> {
    const WORD: &str = "DATABASE ";
    let mut quote = None;
    for (at, character) in statement.char_indices() {
        if quote.is_none() && statement[at..].starts_with(WORD) {
            let (before, rest) = statement.split_at(at + WORD.len());
            let end = identifier_end(rest)?;
            return Some(format!("{before}{}{}", quote_identifier(name), &rest[end..]));
        }
        quote = match (quote, character) {
            (None, '\'' | '"') => Some(character),
            (Some(open), _) if open == character => None,
            (open, _) => open,
        };
    }
    None
}

/// `statement`, which makes a table, for the table `name` instead, logged or temporary as its schema has it; nothing when it
/// makes none.
pub fn for_table(statement: &str, name: &QualifiedTable) -> Option<String> {
    let rest = CREATE_TABLE.iter().find_map(|kind| statement.strip_prefix(kind))?;
    let end = part_end(rest)?;
    let rest = match rest[end..].strip_prefix('.') {
        Some(table) => &table[part_end(table)?..],
        None => &rest[end..],
    };
    Some(format!("CREATE TABLE {}{rest}", name.quoted()))
}

/// How the statements begin that make a table.
const CREATE_TABLE: [&str; 2] = ["CREATE TABLE ", "CREATE UNLOGGED TABLE "];

/// Where the part of a name that `text` begins with ends: before a dot or a space.
fn part_end(text: &str) -> Option<usize> {
    if text.starts_with('"') { identifier_end(text) } else { text.find(['.', ' ']) }
}

/// Where the identifier that `text` begins with ends (PostgreSQL manual, "Identifiers and Key Words").
fn identifier_end(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        return text.find(' ');
    }
    let mut at = 1;
    loop {
        at += text[at..].find('"')? + 1;
        match text[at..].starts_with('"') {
            true => at += 1,
            false => return Some(at),
        }
    }
}

/// A connection string that names only the database; quoted, so that no name is taken for a string itself
/// (PostgreSQL manual, "Connection Strings").
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f81_a_database_name_is_never_a_connection_string() {
        assert_eq!(connection_string("a b"), "dbname='a b'");
        assert_eq!(connection_string("host=evil'\\"), "dbname='host=evil\\'\\\\'");
    }

    #[test]
    fn a_script_is_cut_at_the_ends_of_statements_and_nowhere_else() {
        let script = "--\n-- Name: x; Type: DATABASE PROPERTIES\n--\n\n\\restrict abc\nSET row_security = off;\n\n\
            ALTER DATABASE \"we;ird \"\"x\" SET \"app.note\" TO 'two;\n\\connect evil\n''q'';\n';\nCOMMENT ON DATABASE x IS '';\n";
        assert_eq!(
            statements(script),
            [
                "SET row_security = off",
                "ALTER DATABASE \"we;ird \"\"x\" SET \"app.note\" TO 'two;\n\\connect evil\n''q'';\n'",
                "COMMENT ON DATABASE x IS ''",
            ]
        );
    }

    #[test]
    fn a_rule_of_several_statements_is_one() {
        let rule =
            "CREATE RULE r AS\n    ON DELETE TO public.t DO ( DELETE FROM public.\"u (\";\n DELETE FROM public.u;\n)";
        assert_eq!(statements(&format!("{rule};\nSELECT ')';\n")), [rule, "SELECT ')'"]);
    }

    #[test]
    fn a_statement_about_a_database_is_turned_to_another_one() {
        let cases = [
            ("ALTER DATABASE shop OWNER TO app", Some("ALTER DATABASE \"new\" OWNER TO app")),
            ("ALTER DATABASE \"a \"\" b\" SET x TO 'y'", Some("ALTER DATABASE \"new\" SET x TO 'y'")),
            (
                "ALTER ROLE \"IN DATABASE x \" IN DATABASE shop SET a TO 'b'",
                Some("ALTER ROLE \"IN DATABASE x \" IN DATABASE \"new\" SET a TO 'b'"),
            ),
            ("SET x TO 'ALTER DATABASE shop '", None),
            ("ALTER DATABASE \"unclosed", None),
        ];
        for (statement, turned) in cases {
            assert_eq!(for_database(statement, "new").as_deref(), turned, "{statement}");
        }
    }

    #[test]
    fn a_table_is_made_under_another_name_whatever_it_is_called() {
        let name = QualifiedTable::new("a.b", "new");
        let cases = [
            ("CREATE TABLE public.orders (\n    id int\n)", Some("CREATE TABLE \"a.b\".\"new\" (\n    id int\n)")),
            ("CREATE TABLE public.\"Odd \"\"na.me (\" (x int)", Some("CREATE TABLE \"a.b\".\"new\" (x int)")),
            ("CREATE UNLOGGED TABLE \"a b\".c (x int)", Some("CREATE TABLE \"a.b\".\"new\" (x int)")),
            ("CREATE TABLE lonely (x int)", Some("CREATE TABLE \"a.b\".\"new\" (x int)")),
            ("ALTER TABLE public.orders OWNER TO x", None),
        ];
        for (statement, made) in cases {
            assert_eq!(for_table(statement, &name).as_deref(), made, "{statement}");
        }
    }

    #[test]
    fn entries_about_large_objects_are_told_from_their_contents_and_from_others() {
        let of = |line| LargeObjectEntry::of(line);
        assert_eq!(of("3372; 2613 16400 BLOB - 16400 app"), Some(LargeObjectEntry::Itself));
        assert_eq!(of("3372; 2613 16400 BLOB METADATA - 16400..16402 app"), Some(LargeObjectEntry::Itself));
        assert_eq!(of("3384; 0 0 ACL - LARGE OBJECTS 16400..16402 app"), Some(LargeObjectEntry::About));
        assert_eq!(of("3385; 0 0 COMMENT - LARGE OBJECT 16401 app"), Some(LargeObjectEntry::About));
        for other in [
            "3373; 0 0 BLOBS - BLOBS ",
            "3; 0 0 ACL public TABLE t app",
            ";     dbname: BLOB - 1",
            "3; 1259 1 TABLE BLOB - 1",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn only_entries_about_the_database_itself_are_taken() {
        assert!(is_of_database("3405; 1262 16384 DATABASE - we;ird \"x app"));
        assert!(is_of_database("3408; 0 0 DATABASE PROPERTIES - shop app"));
        assert!(is_of_database("3406; 0 0 COMMENT - DATABASE shop app"));
        assert!(is_of_database("3407; 0 0 ACL - DATABASE shop app"));
        assert!(!is_of_database("215; 1259 16398 TABLE public DATABASE - shop"));
        assert!(!is_of_database(";     dbname: DATABASE - shop"));
        assert!(!is_of_database("3; 0 0 COMMENT public TABLE DATABASE postgres"));
    }
}
