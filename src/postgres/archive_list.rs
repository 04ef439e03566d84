//! The list of an archive's entries as `pg_restore --list --verbose` prints it, and which of them belong to a table.
//!
//! An entry belongs to a table when it could not be without it and changes nothing else: its indexes, constraints,
//! triggers, policies, sequences, privileges, comments, and of a partitioned one its partitions with theirs. Views,
//! foreign keys of other tables and publications only have to do with it. Pure; layout: PostgreSQL,
//! src/bin/pg_dump/pg_backup_archiver.c, PrintTOCSummary.

use std::collections::BTreeSet;

use crate::model::table::QualifiedTable;

/// Kinds whose name begins with that of their table.
const NAMED_BY_TABLE: [&str; 8] =
    ["FK CONSTRAINT", "CHECK CONSTRAINT", "CONSTRAINT", "DEFAULT", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"];

/// Kinds that are known by what they depend on alone.
const NAMED_FREELY: [&str; 9] = [
    "SEQUENCE OWNED BY",
    "SEQUENCE",
    "INDEX ATTACH",
    "INDEX",
    "TABLE ATTACH",
    "STATISTICS",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
];

/// What has to be there before the rows come.
const BEFORE_ROWS: [&str; 5] = ["TABLE", "TABLE ATTACH", "SEQUENCE", "SEQUENCE OWNED BY", "DEFAULT"];

/// Contents, which come another way.
const CONTENTS: [&str; 4] = ["TABLE DATA", "SEQUENCE SET", "STATISTICS DATA", "MATERIALIZED VIEW DATA"];

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry<'a> {
    id: u32,
    /// The whole line, as `--use-list` takes it.
    line: &'a str,
    /// `KIND schema name owner`: nothing tells where one ends and the next begins.
    text: &'a str,
    depends: Vec<u32>,
}

/// The entries that belong to a table, as lines for `--use-list`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Belonging {
    /// Those to be made before the rows come.
    pub before: Vec<String>,
    /// Those to be made after.
    pub after: Vec<String>,
    /// What of others has to do with the table, in words: `VIEW public totals`.
    pub others: Vec<String>,
}

/// What belongs to the table that the entry numbered `root` makes; `tables` are the table and all partitions below it.
pub fn belonging(listing: &str, root: u32, tables: &[QualifiedTable]) -> Belonging {
    let entries = entries(listing);
    let labels = labels(tables);
    let mut taken = BTreeSet::from([root]);
    loop {
        let before = taken.len();
        for entry in &entries {
            if belongs(entry, &taken, &entries, &labels) {
                taken.insert(entry.id);
            }
            // A partition comes with the line that attaches it, which names the partition first.
            if let ([partition, parent, ..], Some(_)) = (entry.depends.as_slice(), of_kind(entry, "TABLE ATTACH"))
                && taken.contains(parent)
            {
                taken.insert(*partition);
            }
        }
        if taken.len() == before {
            return sorted(&entries, &taken);
        }
    }
}

fn sorted(entries: &[Entry<'_>], taken: &BTreeSet<u32>) -> Belonging {
    let mut belonging = Belonging::default();
    for entry in entries {
        let kind_is = |kind: &&str| of_kind(entry, kind).is_some();
        if taken.contains(&entry.id) {
            let list = if BEFORE_ROWS.iter().any(kind_is) { &mut belonging.before } else { &mut belonging.after };
            list.push(entry.line.to_owned());
        } else if entry.depends.iter().any(|id| taken.contains(id)) && !CONTENTS.iter().any(kind_is) {
            belonging.others.push(without_owner(entry.text).to_owned());
        }
    }
    belonging
}

/// The number of the entry that a listing of one table alone (`--schema`, `--table`, without `--verbose`) has.
pub fn table_entry(listing: &str) -> Option<u32> {
    entries(listing).iter().find(|entry| of_kind(entry, "TABLE").is_some()).map(|entry| entry.id)
}

fn entries(listing: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for line in listing.lines() {
        if let Some(depends) = line.strip_prefix(";\tdepends on:") {
            if let Some(entry) = entries.last_mut() {
                entry.depends = depends.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            }
        } else if let Some(entry) = entry(line) {
            entries.push(entry);
        }
    }
    entries
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let (id, rest) = line.split_once("; ")?;
    Some(Entry { id: id.parse().ok()?, line, text: rest.splitn(3, ' ').nth(2)?, depends: Vec::new() })
}

/// What follows the kind, where the entry is of that kind and of no longer one.
fn of_kind<'a>(entry: &Entry<'a>, kind: &str) -> Option<&'a str> {
    let longer =
        |other: &&str| other.len() > kind.len() && other.starts_with(kind) && starts_with_word(entry.text, other);
    let known = NAMED_BY_TABLE.iter().chain(&NAMED_FREELY).chain(&CONTENTS);
    (starts_with_word(entry.text, kind) && !known.copied().any(|other| longer(&other)))
        .then(|| &entry.text[kind.len() + 1..])
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| rest.starts_with(' '))
}

fn belongs(entry: &Entry<'_>, taken: &BTreeSet<u32>, entries: &[Entry<'_>], labels: &[String]) -> bool {
    if !entry.depends.iter().any(|id| taken.contains(id)) {
        return false;
    }
    let outside = || {
        let others = entry.depends.iter().filter(|id| !taken.contains(id));
        others.filter_map(|id| entries.iter().find(|other| other.id == *id))
    };
    if NAMED_FREELY.iter().any(|kind| of_kind(entry, kind).is_some()) {
        return !outside().any(|other| of_kind(other, "TABLE").is_some());
    }
    let Some(name) = NAMED_BY_TABLE.iter().find_map(|kind| of_kind(entry, kind)) else { return false };
    let Some(label) = labels.iter().filter(|label| name.starts_with(label.as_str())).max_by_key(|label| label.len())
    else {
        return false;
    };
    // It may be of another table, whose name begins with ours and a space.
    !outside().filter_map(|other| label_of(other)).any(|other| other.len() > label.len() && name.starts_with(&other))
}

/// `schema name ` as the list has it, where line ends are spaces.
fn labels(tables: &[QualifiedTable]) -> Vec<String> {
    let label = |table: &QualifiedTable| format!("{} {} ", table.schema, table.name).replace(['\n', '\r'], " ");
    tables.iter().map(label).collect()
}

/// The same of an entry for something with columns, its owner taken for one word.
fn label_of(entry: &Entry<'_>) -> Option<String> {
    let kinds = ["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"];
    let named = kinds.iter().find_map(|kind| of_kind(entry, kind))?;
    Some(format!("{} ", without_owner(named)))
}

/// `text` without its last word: the owner, unless that has several.
fn without_owner(text: &str) -> &str {
    text.rsplit_once(' ').map_or(text, |(rest, _)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = ";\n; Selected TOC Entries:\n;\n\
        222; 1255 16423 FUNCTION public f() app\n\
        215; 1259 16393 TABLE public events app\n\
        216; 1259 16396 TABLE public events_1 app\n;\tdepends on: 215\n\
        214; 1259 16388 TABLE public t app\n\
        217; 1259 16400 TABLE public t x app\n\
        3388; 0 0 COMMENT public TABLE t app\n;\tdepends on: 214\n\
        3390; 0 0 ACL public TABLE t app\n;\tdepends on: 214\n\
        218; 1259 16402 SEQUENCE public t_id_seq app\n;\tdepends on: 214\n\
        3387; 0 0 SEQUENCE OWNED BY public t_id_seq app\n;\tdepends on: 218\n\
        3391; 0 0 ACL public SEQUENCE t_id_seq app\n;\tdepends on: 218\n\
        220; 1259 16411 TABLE public u app\n\
        221; 1259 16426 VIEW public v app\n;\tdepends on: 214 214\n\
        3219; 0 0 TABLE ATTACH public events_1 app\n;\tdepends on: 216 215\n\
        3220; 2604 16406 DEFAULT public t id app\n;\tdepends on: 214 218 214\n\
        3223; 2606 16392 CONSTRAINT public t t_pkey app\n;\tdepends on: 214\n\
        3225; 1259 16399 INDEX public events_id_idx app\n;\tdepends on: 215\n\
        3226; 1259 16400 INDEX public events_1_id_idx app\n;\tdepends on: 3225 216 216\n\
        3229; 0 0 INDEX ATTACH public events_1_id_idx app\n;\tdepends on: 3226 3225 216 215\n\
        3224; 1259 16410 INDEX public tx app\n;\tdepends on: 214\n\
        3392; 0 0 COMMENT public INDEX tx app\n;\tdepends on: 3224\n\
        3230; 3381 16409 STATISTICS public st app\n;\tdepends on: 214 214\n\
        3375; 2618 16425 RULE public t r app\n;\tdepends on: 214 220 214\n\
        3232; 2620 16424 TRIGGER public t tr app\n;\tdepends on: 222 214\n\
        3233; 2620 16424 TRIGGER public t x tr app\n;\tdepends on: 222 217 214\n\
        3231; 2606 16417 FK CONSTRAINT public u u_id_fkey app\n;\tdepends on: 3223 220 214\n\
        3234; 2606 16418 FK CONSTRAINT public t t_u_fkey app\n;\tdepends on: 214 220\n\
        3235; 0 0 STATISTICS DATA public t app\n;\tdepends on: 214\n\
        3378; 3256 16422 POLICY public t p app\n;\tdepends on: 214 214\n\
        3377; 0 16388 ROW SECURITY public t app\n;\tdepends on: 214\n\
        3380; 6106 16431 PUBLICATION TABLE public pub t app\n;\tdepends on: 3379 214\n";

    fn ids(lines: &[String]) -> Vec<u32> {
        lines.iter().map(|line| line.split(';').next().unwrap().parse().unwrap()).collect()
    }

    #[test]
    fn what_belongs_to_a_table_is_taken_and_what_is_of_others_is_named() {
        let found = belonging(LISTING, 214, &[QualifiedTable::new("public", "t")]);
        assert_eq!(ids(&found.before), [214, 218, 3387, 3220]);
        assert_eq!(ids(&found.after), [3388, 3390, 3391, 3223, 3224, 3392, 3230, 3375, 3232, 3234, 3378, 3377]);
        let others = [
            "VIEW public v",
            "TRIGGER public t x tr",
            "FK CONSTRAINT public u u_id_fkey",
            "PUBLICATION TABLE public pub t",
        ];
        assert_eq!(found.others, others);
    }

    #[test]
    fn a_partitioned_table_brings_its_partitions_and_a_partition_does_not_bring_its_parent() {
        let tables = ["events", "events_1"].map(|name| QualifiedTable::new("public", name));
        let whole = belonging(LISTING, 215, &tables);
        assert_eq!((ids(&whole.before), ids(&whole.after)), (vec![215, 216, 3219], vec![3225, 3226, 3229]));
        let one = belonging(LISTING, 216, &tables[1..]);
        assert_eq!((ids(&one.before), ids(&one.after)), (vec![216], vec![3226]));
        assert_eq!(one.others, ["TABLE ATTACH public events_1", "INDEX ATTACH public events_1_id_idx"]);
    }

    #[test]
    fn the_one_table_of_a_filtered_list_is_found() {
        assert_eq!(table_entry("; x\n214; 1259 16388 TABLE public odd name ( the owner\n"), Some(214));
        assert_eq!(table_entry("214; 1259 16388 VIEW public t app\n"), None);
    }
}
