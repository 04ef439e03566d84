//! `dbagent init`: asks the few questions on a terminal, takes the defaults elsewhere, and says what to do next.
//!
//! With `--install-sql` it shows what the agent would own in a database, asks, and installs it.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::app::App;
use crate::app::init::{self, Answers, Initialized, Options};
use crate::app::install::SqlPlan;
use crate::cli::arguments::{Consent, Init, KeyProfile};
use crate::cli::output::Output;
use crate::cli::{Code, prompt};
use crate::config::Profile;
use crate::model::failure::{Failure, FailureKind};

/// Sets up `--directory`.
pub fn run(arguments: &Init, output: &Output) -> Result<Code, Failure> {
    let mut answers = Answers::defaults(&arguments.directory)?;
    let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
    if terminal && !arguments.yes && !output.quiet && !output.json {
        ask("Name of the PostgreSQL cluster", &mut answers.cluster, output)?;
        ask("Where PostgreSQL is and who logs in", &mut answers.postgres_url, output)?;
        ask("Where backups are to be kept (a directory, or s3://bucket/prefix)", &mut answers.repository, output)?;
    }
    let options = Options {
        directory: arguments.directory.clone(),
        recipients: arguments.recipient.clone(),
        profile: match arguments.profile {
            KeyProfile::Gnupg => Profile::GnuPg,
            KeyProfile::Rfc9580 => Profile::Rfc9580,
        },
        answers,
        name_decryption_key: false,
    };
    let made = init::run_now(&options)?;
    output.result(&made, || next_steps(&made));
    Ok(0)
}

/// Shows what `--install-sql` would do, asks, and does it.
pub async fn install_sql(app: &App, arguments: &Init, output: &Output) -> Result<Code, Failure> {
    let installer = app.sql_installer(arguments.admin_url.as_deref(), arguments.database.as_deref())?;
    let plan = installer.plan().await?;
    if arguments.plan || plan.is_empty() {
        output.result(&plan, || told(&plan, "would be"));
        return Ok(0);
    }
    output.talk(&told(&plan, "will be"));
    let consent = Consent { plan: false, yes: arguments.yes };
    prompt::require_consent(&consent, "install this SQL", &plan.database)?;
    let done = installer.install().await?;
    output.result(&done, || told(&done, "was"));
    Ok(0)
}

fn told(plan: &SqlPlan, tense: &str) -> String {
    let SqlPlan { database, login, migrations, tables } = plan;
    if plan.is_empty() {
        return format!("In the database {database} everything is installed that this version needs.");
    }
    let mut text = format!("In the database {database}, by {login}, this {tense} installed and changed:");
    for migration in migrations {
        text.push_str(&format!("\n  sql/schema/{migration}.sql"));
    }
    for change in tables {
        text.push_str(&format!("\n  {change}"));
    }
    text
}

/// Replaces `answer` by what is typed; an empty line, or the end of input, keeps it.
fn ask(question: &str, answer: &mut String, output: &Output) -> Result<(), Failure> {
    output.talk(&format!("{question} [{answer}]:"));
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|error| Failure::new(FailureKind::Failed, "read the answer").because(error))?;
    if !line.trim().is_empty() {
        *answer = line.trim().to_owned();
    }
    Ok(())
}

fn next_steps(made: &Initialized) -> String {
    let configuration = made.configuration.display();
    let mut text = format!("Wrote {configuration}. Backups go to {} and can be read by\n", made.repository);
    for recipient in &made.recipients {
        text.push_str(&format!("  {recipient}\n"));
    }
    text.push_str(&format!("They are signed by\n  {}\n", made.signing_key));
    text.push_str("A test message was encrypted to every recipient");
    match (&made.restore_key, &made.break_glass) {
        (Some(key), Some(sheet)) => text.push_str(&format!(
            " and decrypted again.\n\nTAKE THE PRIVATE KEY AWAY FROM HERE: {}\nWithout it nothing can be restored; with \
             it everything can be read. {} says where it belongs and how to use it.\n",
            key.display(),
            sheet.display()
        )),
        _ => text.push_str(
            ".\n\nCompare the fingerprints with their owners', and have them decrypt a backup before you rely on it.\n",
        ),
    }
    text.push_str(&format!(
        "\nNext:\n  dbagent --config {configuration} check          is everything in place\n  dbagent --config \
         {configuration} job run full   the first backup, now\n  dbagent --config {configuration} init --install-sql \
         --admin-url postgres://postgres@…\n                 what partitions need in the database, by an administrator\n  \
         dbagent --config {configuration} run            the agent, by the plan\n"
    ));
    text
}
