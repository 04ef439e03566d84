//! The golden rows against the server, when an agent begins to lead: that a server was upgraded to one of other bytes, or
//! that a function was replaced, is told at once and not at the next verification.

use crate::model::audit::alert::Subject;
use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::failure::Failure;
use crate::model::outcome::{Outcome, Verdict};
use crate::ops::Setting;
use crate::postgres::audit::{schema, vectors};
use crate::postgres::copy;
use crate::steps::alert::{self, AlertDoors};
use crate::steps::protection;

/// Checks them, and raises an alert where this server or its functions give other bytes. Errors when nobody can be asked.
pub async fn run(doors: &AlertDoors, setting: &Setting) -> Result<Outcome, Failure> {
    let session = copy::connect(&doors.connection, "UTF8").await?;
    if !schema::is_installed(&session).await? {
        return Ok(Outcome::ok("no audit chain is installed"));
    }
    let finding = match vectors::check_copy(&session).await {
        Ok(()) => {
            session.batch("BEGIN TRANSACTION READ ONLY").await?;
            protection::finding(&session).await?
        }
        Err(error) if session.is_closed() => return Err(error.into()),
        Err(error) => Some(ChainFinding::new(FindingKind::VerifyFailedToRun, error.full_message())),
    };
    let Some(finding) = finding else {
        return Ok(Outcome::ok("this server and the functions of the audit chain hash the golden rows as they must"));
    };
    let subject = Subject::of(setting.run, doors.connection.database());
    let mut findings = vec![finding.to_finding()];
    findings.extend(alert::raise(std::slice::from_ref(&finding), &subject, doors, setting).await?);
    Ok(Outcome { verdict: Verdict::Findings, findings, ..Outcome::ok("the audit chain is not protected as installed") })
}
