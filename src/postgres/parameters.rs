//! Connection parameters as libpq writes them down: in a URL and in a service file.
//!
//! Pure text to keyword/value pairs (PostgreSQL manual, "Connection Strings", "The Connection Service File"). Errors
//! name keywords and line numbers and never a value, which could be a password.

use std::collections::BTreeMap;

/// Values by libpq's keyword.
pub(super) type Parameters = BTreeMap<String, String>;

/// Keywords that are understood wherever parameters are written down.
const KEYWORDS: [&str; 13] = [
    "host",
    "port",
    "user",
    "dbname",
    "password",
    "sslmode",
    "sslrootcert",
    "application_name",
    "connect_timeout",
    "passfile",
    "service",
    "servicefile",
    "channel_binding",
];

/// Reads `postgres://user:password@host:port/database?keyword=value&…`, every part optional and percent-encoded.
pub(super) fn from_url(url: &str) -> Result<Parameters, String> {
    let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or("it does not begin with postgres://")?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = host_and_port(place)?;
    let mut found = Parameters::new();
    let parts = [("user", user), ("password", password), ("host", host), ("port", port), ("dbname", database)];
    for (keyword, value) in parts.into_iter().filter(|(_, value)| !value.is_empty()) {
        found.insert(keyword.to_owned(), decoded(value).ok_or_else(|| format!("its {keyword} is not well encoded"))?);
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (keyword, value) = pair.split_once('=').ok_or_else(|| format!("{pair} has no value"))?;
        let value = decoded(value).ok_or_else(|| format!("its {keyword} is not well encoded"))?;
        insert(&mut found, keyword, value)?;
    }
    Ok(found)
}

fn host_and_port(place: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = place.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("its IPv6 address is not closed by ]")?;
        return Ok((host, port.strip_prefix(':').unwrap_or(port)));
    }
    Ok(place.split_once(':').unwrap_or((place, "")))
}

/// Percent-decoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Reads the section `service` of a service file. Nothing when there is no such section.
pub(super) fn from_service_file(text: &str, service: &str) -> Result<Option<Parameters>, String> {
    let mut found: Option<Parameters> = None;
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            // The first section of a name counts, as in libpq.
            inside = name == service && found.is_none();
            if inside {
                found = Some(Parameters::new());
            }
        } else if let (true, Some(found)) = (inside, &mut found) {
            let at = |fault: String| format!("line {}: {fault}", number + 1);
            let (keyword, value) = line.split_once('=').ok_or_else(|| at("it is not keyword=value".to_owned()))?;
            insert(found, keyword.trim(), value.trim().to_owned()).map_err(at)?;
        }
    }
    Ok(found)
}

fn insert(found: &mut Parameters, keyword: &str, value: String) -> Result<(), String> {
    if !KEYWORDS.contains(&keyword) {
        return Err(format!("the keyword {keyword} is not supported"));
    }
    if !value.is_empty() {
        found.insert(keyword.to_owned(), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Vec<(String, String)> {
        from_url(url).unwrap().into_iter().collect()
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(keyword, value)| ((*keyword).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_part_of_a_url_is_optional_and_decoded() {
        assert_eq!(read("postgres://"), []);
        assert_eq!(read("postgresql://h"), pairs(&[("host", "h")]));
        assert_eq!(
            read("postgres://me:p%40ss%3A@db.example:6543/app%2F1?sslmode=require"),
            pairs(&[
                ("dbname", "app/1"),
                ("host", "db.example"),
                ("password", "p@ss:"),
                ("port", "6543"),
                ("sslmode", "require"),
                ("user", "me")
            ])
        );
        assert_eq!(read("postgres://[::1]:5433/d"), pairs(&[("dbname", "d"), ("host", "::1"), ("port", "5433")]));
        assert_eq!(read("postgres://%2Frun%2Fpg/d"), pairs(&[("dbname", "d"), ("host", "/run/pg")]));
        assert_eq!(read("postgres://u@/d?host=/run/pg"), pairs(&[("dbname", "d"), ("host", "/run/pg"), ("user", "u")]));
    }

    #[test]
    fn f24_a_bad_url_is_refused_without_its_password() {
        for url in [
            "http://u:hunter2@h/d",
            "postgres://u:hunter2%@h/d",
            "postgres://u:hunter2@h/d?sslcert=x",
            "postgres://[::1",
        ] {
            let fault = from_url(url).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn a_service_is_read_from_its_own_section() {
        let text = "# services\n[other]\nhost=wrong\n\n[backup]\nhost = db\nport=5444\n[backup]\nhost=later\n";
        let found: Vec<_> = from_service_file(text, "backup").unwrap().unwrap().into_iter().collect();
        assert_eq!(found, pairs(&[("host", "db"), ("port", "5444")]));
        assert_eq!(from_service_file(text, "none").unwrap(), None);
        assert!(from_service_file("[a]\nldap://x\n", "a").unwrap_err().starts_with("line 2"));
    }
}
