//! libpq's password file: finding a login's line, and writing one (PostgreSQL manual, "The Password File").

use secrecy::{ExposeSecret as _, SecretString};

/// Whom a password is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login<'a> {
    /// Host as the file writes it: `localhost` for a socket in a default directory.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password of the first line that matches `login`; `*` matches everything, `\` takes the next character as it is.
pub(super) fn find_password(text: &str, login: &Login<'_>) -> Option<SecretString> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| match_line(line, &wanted))
}

fn match_line(line: &str, wanted: &[&str; 4]) -> Option<SecretString> {
    let mut rest = line;
    for want in wanted {
        let (field, after) = field(rest);
        let any = rest.starts_with("*:");
        rest = after?;
        if !any && field != *want {
            return None;
        }
    }
    Some(SecretString::from(field(rest).0))
}

/// The text up to the next colon that is not escaped, and what follows that colon.
fn field(text: &str) -> (String, Option<&str>) {
    let mut taken = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (taken, Some(&text[at + 1..])),
            '\\' => taken.extend(characters.next().map(|(_, escaped)| escaped)),
            other => taken.push(other),
        }
    }
    (taken, None)
}

/// A file that gives `password` for every login. Nothing when the password has a line end, which the format cannot say.
pub(super) fn file_for(password: &SecretString) -> Option<SecretString> {
    let password = password.expose_secret();
    if password.contains(['\n', '\r', '\0']) {
        return None;
    }
    Some(SecretString::from(format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<String> {
        let login = Login { host: "db:1", port: 5432, database: "app", user: "me" };
        find_password(text, &login).map(|password| password.expose_secret().to_owned())
    }

    #[test]
    fn the_first_matching_line_counts() {
        assert_eq!(find("other:5432:app:me:no\ndb\\:1:5432:app:me:yes\n*:*:*:*:late\n").as_deref(), Some("yes"));
        assert_eq!(find("# *:*:*:*:comment\n*:5433:*:*:no\n*:*:*:me:wild\n").as_deref(), Some("wild"));
        assert_eq!(find("db\\:1:5432:app:you:no\n"), None);
        assert_eq!(find("\\*:5432:app:me:no\n*:*:*\n\n"), None);
    }

    #[test]
    fn passwords_with_colons_and_backslashes_survive() {
        assert_eq!(find("*:*:*:*:a\\:b\\\\c").as_deref(), Some("a:b\\c"));
        assert_eq!(find("*:*:*:*:a:b").as_deref(), Some("a"));
        for password in ["plain", "a:b\\c:", "\\", "#ü *"] {
            let file = file_for(&SecretString::from(password)).unwrap();
            assert_eq!(find(file.expose_secret()).as_deref(), Some(password));
        }
        assert!(file_for(&SecretString::from("two\nlines")).is_none());
    }
}
