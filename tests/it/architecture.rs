//! The house is a test: imports go down the floors only as the table allows, files and functions stay small.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Room, and the rooms it may import besides `model`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &[]),
    ("host", &[]),
    ("storage", &["host"]),
    ("postgres", &["host"]),
    ("pipeline", &["host", "storage"]),
    ("catalog", &["host", "storage"]),
    ("steps", &["host", "storage", "postgres", "pipeline", "catalog"]),
    ("ops", &["steps", "host", "storage", "postgres", "pipeline", "catalog"]),
    ("scheduler", &["host", "ops", "catalog"]),
    ("report", &["host", "storage", "catalog"]),
    ("web", &["host", "storage", "catalog"]),
    ("notify", &["host", "storage", "catalog"]),
    (
        "app",
        &[
            "config",
            "host",
            "storage",
            "postgres",
            "pipeline",
            "catalog",
            "steps",
            "ops",
            "scheduler",
            "report",
            "web",
            "notify",
        ],
    ),
    ("cli", &["app", "config", "ops", "scheduler", "report", "catalog"]),
];

const FILE_LIMIT: usize = 600;
const FILE_MEDIAN: usize = 200;
const FILE_NINETIETH: usize = 450;
const FUNCTION_LIMIT: usize = 80;
const FUNCTION_MEDIAN: usize = 10;
const FUNCTION_NINETIETH: usize = 40;

struct SourceFile {
    path: PathBuf,
    room: String,
    text: String,
}

/// Every source file, its inline tests cut off.
fn source_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).unwrap();
                let room = below.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap().to_owned();
                files.push(SourceFile { path, room, text });
            }
        }
    }
    assert!(files.len() > 20, "the sources were not found");
    files
}

fn rooms_named_in(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    code.split("crate::").skip(1).map(first_word).collect()
}

fn first_word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn a_room_imports_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut offences = Vec::new();
    for file in source_files() {
        if file.room == "lib" || file.room == "main" {
            continue;
        }
        let allowed = table.get(file.room.as_str()).unwrap_or_else(|| panic!("{} is no room of the house", file.room));
        for room in rooms_named_in(&file.text) {
            if room != file.room && room != "model" && !allowed.contains(&room.as_str()) {
                offences.push(format!("{} imports {room}", file.path.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn a_verb_never_imports_another_verb() {
    let mut offences = Vec::new();
    let verb_of = |path: &Path| {
        let mut parts = path.components().skip_while(|part| part.as_os_str() != "ops").skip(1);
        parts.next().map(|part| part.as_os_str().to_string_lossy().replace(".rs", ""))
    };
    for file in source_files().iter().filter(|file| file.room == "ops") {
        let Some(verb) = verb_of(&file.path).filter(|verb| verb != "mod") else { continue };
        let other = |named: &String| *named != verb && named.chars().next().is_some_and(char::is_lowercase);
        for named in file.text.split("crate::ops::").skip(1).map(first_word).filter(other) {
            offences.push(format!("{} imports ops::{named}", file.path.display()));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn every_file_opens_with_what_it_owns() {
    let bare: Vec<_> = source_files().into_iter().filter(|file| !file.text.starts_with("//! ")).collect();
    assert!(bare.is_empty(), "{:?}", bare.iter().map(|file| &file.path).collect::<Vec<_>>());
}

#[test]
fn files_stay_small() {
    let files = source_files();
    let sizes = files.iter().map(|file| (file.text.lines().count(), file.path.display().to_string())).collect();
    assert_sizes("files", sizes, FILE_MEDIAN, FILE_NINETIETH, FILE_LIMIT);
}

#[test]
fn functions_stay_small() {
    let files = source_files();
    let sizes = files.iter().flat_map(|file| {
        functions(&file.text).into_iter().map(|(name, lines)| (lines, format!("{} {name}", file.path.display())))
    });
    assert_sizes("functions", sizes.collect(), FUNCTION_MEDIAN, FUNCTION_NINETIETH, FUNCTION_LIMIT);
}

/// Lines of each function's body, by indentation as rustfmt leaves it.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let is_function = !words.starts_with("//") && (words.starts_with("fn ") || words.contains(" fn "));
        if !is_function {
            continue;
        }
        let indent = &line[..line.len() - words.len()];
        let Some(open) = lines[start..].iter().position(|l| l.ends_with('{') || l.ends_with(';') || l.ends_with('}'))
        else {
            continue;
        };
        if !lines[start + open].ends_with('{') {
            continue;
        }
        let end = format!("{indent}}}");
        if let Some(close) = lines[start + open..].iter().position(|l| *l == end) {
            let name = words.split("fn ").nth(1).map(first_word).unwrap_or_default();
            found.push((name, close.saturating_sub(1)));
        }
    }
    found
}

fn assert_sizes(what: &str, mut sizes: Vec<(usize, String)>, median: usize, ninetieth: usize, limit: usize) {
    sizes.sort();
    let over: Vec<_> = sizes.iter().filter(|(lines, _)| *lines > limit).collect();
    assert!(over.is_empty(), "{what} over {limit} lines: {over:#?}");
    let at = |share: usize| sizes[(sizes.len() - 1) * share / 100].0;
    assert!(at(50) <= median, "the median of {what} is {} lines, over {median}", at(50));
    assert!(at(90) <= ninetieth, "nine tenths of {what} are within {} lines, over {ninetieth}", at(90));
}
