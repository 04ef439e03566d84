//! `dbagent backup`: list, show, verify, keep, delete.

use serde_json::{Value, json};

use crate::app::App;
use crate::catalog::{Artifact, Repository, Selector};
use crate::cli::arguments::{Backup, Consent};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, prompt, signals, tables};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{VerificationLevel, is_exact};
use crate::model::size::ByteSize;
use crate::model::status::level_in_words;
use crate::ops::Setting;
use crate::ops::backup::{self, Holdings};

pub async fn run(app: &App, command: &Backup, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let stock = |only: Option<String>| async move { Stock::open(app, only.as_deref()).await };
    match command {
        Backup::List { job, repository } => {
            stock(repository.clone()).await?.read(&setting).await.list(job.as_deref(), output)
        }
        Backup::Show { backup } => stock(None).await?.read(&setting).await.show(backup, output),
        Backup::Verify { backup, deep, repository } => {
            let keys = if *deep { Some(deep_keys(app)?) } else { None };
            let stock = stock(repository.clone()).await?.read(&setting).await;
            stock.verify(backup.as_deref(), keys.as_ref(), &setting, output).await
        }
        Backup::Keep { backup, reason, release } => {
            let reason = (!release).then_some(reason.as_str());
            stock(None).await?.read(&setting).await.keep(backup, reason, &setting, output).await
        }
        Backup::Delete { backup, repository, consent } => {
            stock(repository.clone()).await?.read(&setting).await.delete(backup, consent, &setting, output).await
        }
    }
}

fn deep_keys(app: &App) -> Result<crate::app::keys::DecryptionKeys, Failure> {
    app.decryption_keys()?.ok_or_else(|| {
        Failure::new(FailureKind::Authentication, "verify contents: no decryption key is configured here")
            .hint("Run it where encryption.decryption_key is set, or leave --deep out.")
    })
}

/// Opened repositories and what they hold.
struct Stock {
    repositories: Vec<Repository>,
    holdings: Holdings,
}

impl Stock {
    async fn open(app: &App, only: Option<&str>) -> Result<Self, Failure> {
        let (repositories, unopened) = app.try_repositories(only).await?;
        Ok(Self { repositories, holdings: Holdings { unread: unopened, ..Holdings::default() } })
    }

    async fn read(mut self, setting: &Setting) -> Self {
        let mut holdings = backup::holdings(&self.repositories, setting).await;
        holdings.unread.append(&mut self.holdings.unread);
        self.holdings = holdings;
        self
    }

    fn repository(&self, name: &str) -> Result<&Repository, Failure> {
        self.repositories
            .iter()
            .find(|each| each.name == name)
            .ok_or_else(|| Failure::new(FailureKind::NothingMatches, format!("find the repository {name}")))
    }

    fn choose(&self, text: &str) -> Result<Vec<&Artifact>, Failure> {
        let Ok(selector) = text.parse::<Selector>();
        selector.choose(&self.holdings.artifacts)
    }

    /// What could not be read is told, and counts as a finding.
    fn tell_troubles(&self, output: &Output) -> Code {
        for (name, failure) in &self.holdings.unread {
            output.talk(&format!(
                "{} repository {name} cannot be read: {}",
                output.paint(Tone::Bad, "warning:"),
                failure.full_message()
            ));
        }
        for finding in &self.holdings.findings {
            output.talk(&format!(
                "{} {}",
                output.paint(Tone::Warning, &format!("{}:", finding.severity)),
                finding.message
            ));
        }
        let fine = self.holdings.unread.is_empty() && self.holdings.findings.is_empty();
        if fine { 0 } else { FailureKind::Findings.exit_code() }
    }

    fn list(&self, job: Option<&str>, output: &Output) -> Result<Code, Failure> {
        let shown =
            || self.holdings.artifacts.iter().filter(|artifact| job.is_none_or(|job| artifact.manifest.job == job));
        let unread: Vec<_> = self
            .holdings
            .unread
            .iter()
            .map(|(name, failure)| json!({"repository": name, "error": failure.full_message()}))
            .collect();
        let result = json!({"backups": shown().map(summary).collect::<Vec<_>>(), "findings": self.holdings.findings, "unread": unread});
        output.result(&result, || {
            let rows: Vec<_> = shown().map(|artifact| row(artifact, output)).collect();
            if rows.is_empty() {
                return self.nothing(job);
            }
            tables::table(&["id", "job", "finished", "repository", "size", "state", "name"], rows)
        });
        let code = self.tell_troubles(output);
        match (self.repositories.is_empty(), self.holdings.unread.first()) {
            (true, Some((_, failure))) => Ok(failure.kind.exit_code()),
            _ => Ok(code),
        }
    }

    /// What to say where there is no backup to list: that there is none is known only of what could be read.
    fn nothing(&self, job: Option<&str>) -> String {
        let of_job = job.map(|job| format!(" of the job {job}")).unwrap_or_default();
        let unread: Vec<&str> = self.holdings.unread.iter().map(|(name, _)| name.as_str()).collect();
        let some_read = self.repositories.iter().any(|repository| !unread.contains(&repository.name.as_str()));
        match (unread.is_empty(), some_read) {
            (true, _) => format!("no backups{of_job} yet; `dbagent job run {}` makes one", job.unwrap_or("NAME")),
            (false, true) => format!(
                "no backups{of_job} in the repositories that could be read; what is in {} is not known",
                unread.join(", ")
            ),
            (false, false) => {
                format!("which backups{of_job} there are is not known: cannot read repository {}", unread.join(", "))
            }
        }
    }

    fn show(&self, text: &str, output: &Output) -> Result<Code, Failure> {
        let copies = self.choose(text)?;
        let result = json!({"copies": copies.iter().map(|artifact| full(artifact)).collect::<Vec<_>>()});
        output.result(&result, || {
            copies.iter().map(|artifact| description(artifact, output)).collect::<Vec<_>>().join("\n\n")
        });
        Ok(0)
    }

    async fn verify(
        &self,
        text: Option<&str>,
        keys: Option<&crate::app::keys::DecryptionKeys>,
        setting: &Setting,
        output: &Output,
    ) -> Result<Code, Failure> {
        let chosen = match text {
            Some(text) => self.choose(text)?,
            None => self.holdings.artifacts.iter().collect(),
        };
        let (mut results, mut lines, mut worst) = (Vec::new(), Vec::new(), self.tell_troubles(output));
        for artifact in chosen {
            setting.require_going_on("go on verifying")?;
            let repository = self.repository(&artifact.repository)?;
            let verified = backup::verify(repository, artifact, &self.holdings.artifacts, keys, setting).await;
            let place = format!("{} in {}", artifact.name, artifact.repository);
            let error = verified.result.as_ref().err().map(Failure::full_message);
            match (&verified.result, &error) {
                (Ok(level), _) => {
                    let drilled = match verified.drilled.as_slice() {
                        [] => String::new(),
                        who => format!(", decrypted with the key of {}", who.join(" and of ")),
                    };
                    let level = level_text(*level);
                    lines.push(format!("{} {place}: {level}{drilled}", output.paint(Tone::Good, "good")))
                }
                (Err(failure), error) => {
                    // That something is broken weighs more than that something could not be looked at.
                    if worst != FailureKind::Integrity.exit_code() {
                        worst = failure.kind.exit_code();
                    }
                    let error = error.as_deref().unwrap_or_default();
                    lines.push(format!("{} {place}: failed to {error}", output.paint(Tone::Bad, "BAD")));
                }
            }
            if let Some(failure) = &verified.unrecorded {
                output.talk(&format!("not recorded in the repository: {}", failure.full_message()));
            }
            results.push(
                json!({"id": artifact.manifest.id, "repository": artifact.repository, "good": verified.result.is_ok(),
                                "level": verified.result.as_ref().ok(), "error": error,
                                "recorded": verified.unrecorded.is_none(), "drilled": verified.drilled}),
            );
        }
        output.result(&json!({"verified": results}), || lines.join("\n"));
        Ok(worst)
    }

    async fn keep(
        &self,
        text: &str,
        reason: Option<&str>,
        setting: &Setting,
        output: &Output,
    ) -> Result<Code, Failure> {
        for artifact in self.choose(text)? {
            backup::keep(self.repository(&artifact.repository)?, artifact, reason, setting).await?;
            let word = if reason.is_some() { "is kept" } else { "is under retention again" };
            output.talk(&format!("{} in {} {word}", artifact.name, artifact.repository));
        }
        output.result(&json!({"kept": reason.is_some()}), String::new);
        Ok(0)
    }

    async fn delete(&self, text: &str, consent: &Consent, setting: &Setting, output: &Output) -> Result<Code, Failure> {
        let copies = self.choose(text)?;
        if let Some(failure) = copies.iter().find_map(|copy| backup::delete_refusal(copy, &self.holdings.artifacts)) {
            return Err(failure);
        }
        let places: Vec<String> = copies.iter().map(|copy| format!("{} in {}", copy.name, copy.repository)).collect();
        if consent.plan {
            output.result(&json!({"would_delete": places}), || format!("would delete {}", places.join(" and ")));
            return Ok(0);
        }
        let id = copies.first().map(|copy| copy.manifest.id.to_string()).unwrap_or_default();
        prompt::require_consent(
            consent,
            &format!("delete {}", places.join(" and ")),
            &id[id.len().saturating_sub(6)..],
        )?;
        let mut freed = 0;
        for copy in copies {
            freed += backup::delete(self.repository(&copy.repository)?, copy, setting).await?;
        }
        output.result(&json!({"deleted": places, "freed_bytes": freed}), || {
            format!("deleted {}, {} freed", places.join(" and "), ByteSize(freed))
        });
        Ok(0)
    }
}

fn level_text(level: VerificationLevel) -> &'static str {
    match level {
        VerificationLevel::ReadBack => "every stored byte read back",
        VerificationLevel::StoreChecksum => {
            "archived, so not read; the store confirms sizes, and checksums where it has them"
        }
    }
}

fn summary(artifact: &Artifact) -> Value {
    let manifest = &artifact.manifest;
    json!({
        "id": manifest.id, "verb": manifest.verb, "job": manifest.job, "name": artifact.name.to_string(),
        "finished": manifest.finished, "repository": artifact.repository, "verified": artifact.verified.is_some(),
        "verification": artifact.verified, "damaged": artifact.damaged, "kept": artifact.pinned,
        "exact": manifest.tables.iter().all(is_exact),
        "database": manifest.source.database, "stored_bytes": manifest.stored_size(), "signed_by": artifact.signed_by,
        "parent": manifest.parent.as_ref().map(|parent| parent.id),
    })
}

fn full(artifact: &Artifact) -> Value {
    let mut value = summary(artifact);
    if let Value::Object(fields) = &mut value {
        fields.insert("manifest".to_owned(), json!(artifact.manifest));
    }
    value
}

fn state(artifact: &Artifact, output: &Output) -> String {
    match (&artifact.damaged, &artifact.verified, &artifact.pinned) {
        (Some(_), ..) => output.paint(Tone::Bad, "DAMAGED"),
        (_, None, _) => output.paint(Tone::Warning, "not verified"),
        (_, Some(verification), pinned) => {
            let kept = if pinned.is_some() { ", kept" } else { "" };
            let exact = artifact.manifest.tables.iter().all(is_exact);
            let (tone, inexact) = if exact { (Tone::Good, "") } else { (Tone::Warning, ", not exact") };
            output.paint(tone, &format!("{}{kept}{inexact}", level_in_words(verification.level)))
        }
    }
}

fn row(artifact: &Artifact, output: &Output) -> Vec<String> {
    let manifest = &artifact.manifest;
    vec![
        manifest.id.to_string(),
        manifest.job.clone(),
        tables::instant(manifest.finished),
        artifact.repository.clone(),
        ByteSize(manifest.stored_size()).to_string(),
        state(artifact, output),
        artifact.name.to_string(),
    ]
}

fn description(artifact: &Artifact, output: &Output) -> String {
    let manifest = &artifact.manifest;
    let mut lines = vec![
        format!("{} in repository {}: {}", artifact.name, artifact.repository, state(artifact, output)),
        format!("  id         {}", manifest.id),
        format!(
            "  database   {} of cluster {}, PostgreSQL {}",
            manifest.source.database, manifest.cluster, manifest.source.server_version
        ),
        format!(
            "  taken      {} to {} by job {} of plan {}",
            tables::instant(manifest.started),
            tables::instant(manifest.finished),
            manifest.job,
            manifest.plan
        ),
        format!(
            "  encrypted  to {}",
            if manifest.recipients.is_empty() { "nobody".to_owned() } else { manifest.recipients.join(", ") }
        ),
        format!("  signed by  {}", artifact.signed_by.as_deref().unwrap_or("nobody trusted")),
    ];
    lines.extend(artifact.damaged.iter().map(|damage| format!("  damage     {damage}")));
    lines.extend(artifact.pinned.iter().map(|reason| format!("  kept       {reason}")));
    lines.extend(manifest.objects.iter().map(|object| {
        format!(
            "  object     {} ({}, {} inside)",
            object.key,
            ByteSize(object.stored_size),
            ByteSize(object.content_size)
        )
    }));
    lines.extend(manifest.parent.iter().map(|parent| format!("  builds on  {}", parent.id)));
    for table in &manifest.tables {
        if let Some(change) = &table.change {
            let kind = match (&change.whole, &change.since) {
                (Some(_), _) => "all",
                (None, Some(_)) => "recent; not exact",
                (None, None) if change.untouched.is_some() => "not read; the log does not touch it",
                (None, None) => "changed",
            };
            let stored = change.stored;
            lines.push(format!(
                "  table      {}: {} of {} rows ({kind}), {}",
                table.table,
                stored.rows,
                change.rows,
                ByteSize(stored.bytes)
            ));
        } else if let Some(content) = &table.content {
            lines.push(format!("  table      {}: {} rows, {}", table.table, content.rows, ByteSize(content.bytes)));
        }
    }
    lines.join("\n")
}
