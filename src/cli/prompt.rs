//! Asking before something is destroyed: the target's name must be typed.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::cli::arguments::Consent;
use crate::model::failure::{Failure, FailureKind};

/// Errors unless `--yes` was given or the person at the terminal types `name`.
pub fn require_consent(consent: &Consent, what: &str, name: &str) -> Result<(), Failure> {
    if consent.yes {
        return Ok(());
    }
    let refused = |why: &str| Failure::new(FailureKind::RefusedForSafety, format!("{what}: {why}"));
    if !io::stdin().is_terminal() {
        return Err(refused("nobody is there to ask").hint("Add --yes, or --plan to see what would be done."));
    }
    let mut typed = String::new();
    let asked = write!(io::stderr(), "This will {what}. Type {name} to go on: ")
        .and_then(|()| io::stderr().flush())
        .and_then(|()| io::stdin().lock().read_line(&mut typed));
    match asked {
        Ok(_) if typed.trim() == name => Ok(()),
        Ok(_) => Err(refused("the name was not typed").hint("Nothing was changed.")),
        Err(error) => Err(refused("the question could not be asked").because(error)),
    }
}
