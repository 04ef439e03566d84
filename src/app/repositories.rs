//! From `[repository.NAME]` to an opened repository: backend, retries, keys.

use std::path::Path;
use std::sync::Arc;

use crate::app::App;
use crate::catalog::{Repository, Signer, Verifier};
use crate::config::{self, LockMode, Place};
use crate::model::failure::{Failure, FailureKind};
use crate::storage::{
    DirectoryStorage, ObjectLock, Retrier, RetryPolicy, Retrying, S3Settings, S3Storage, Sse, Storage,
};

impl App {
    /// Opens every configured repository, or the one called `only`. S3 is not asked yet; a directory must be there.
    pub async fn repositories(&self, only: Option<&str>) -> Result<Vec<Repository>, Failure> {
        let (opened, failed) = self.try_repositories(only).await?;
        match failed.into_iter().next() {
            Some((_, failure)) => Err(failure),
            None => Ok(opened),
        }
    }

    /// Opens what can be opened, and says what could not: one broken repository must not hide the others.
    pub async fn try_repositories(
        &self,
        only: Option<&str>,
    ) -> Result<(Vec<Repository>, Vec<(String, Failure)>), Failure> {
        self.try_open(self.chosen(only)?).await
    }

    /// The same for those that take WAL, the directories first; with `local` no others.
    pub(super) async fn try_wal_repositories(
        &self,
        local: bool,
    ) -> Result<(Vec<Repository>, Vec<(String, Failure)>), Failure> {
        let all = self.loaded.config.repository.iter().filter(|(_, settings)| settings.wal);
        let (mut chosen, others): (Vec<_>, Vec<_>) = all.partition(|(_, settings)| settings.url.is_directory());
        chosen.extend(others.into_iter().filter(|_| !local));
        self.try_open(chosen).await
    }

    async fn try_open(
        &self,
        chosen: Vec<(&String, &config::Repository)>,
    ) -> Result<(Vec<Repository>, Vec<(String, Failure)>), Failure> {
        let signer = self.signer()?;
        let verifier = Arc::new(self.verifier(signer.as_deref())?);
        let (mut opened, mut failed) = (Vec::new(), Vec::new());
        for (name, settings) in chosen {
            match open(settings, &self.loaded.config.state_dir).await {
                Ok(storage) => opened.push(self.repository(name, storage, &verifier, signer.clone())),
                Err(failure) => failed.push((name.clone(), failure)),
            }
        }
        Ok((opened, failed))
    }

    fn chosen(&self, only: Option<&str>) -> Result<Vec<(&String, &config::Repository)>, Failure> {
        let all = &self.loaded.config.repository;
        let chosen: Vec<_> = all.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str())).collect();
        match (chosen.is_empty(), only) {
            (false, _) => Ok(chosen),
            (true, None) => Err(Failure::new(FailureKind::Usage, "open a repository: the configuration has none")
                .hint("Add [repository.local] with url = \"file:///…\" to dbagent.toml.")),
            (true, Some(name)) => {
                let names: Vec<&str> = all.keys().map(String::as_str).collect();
                Err(Failure::new(FailureKind::Usage, format!("find the repository {name} in the configuration"))
                    .hint(format!("There are: {}.", names.join(", "))))
            }
        }
    }

    fn repository(
        &self,
        name: &str,
        storage: Arc<dyn Storage>,
        verifier: &Arc<Verifier>,
        signer: Option<Arc<Signer>>,
    ) -> Repository {
        let memory = self.loaded.config.state_dir.join("catalog").join(format!("{name}.head.json"));
        Repository {
            term: self.terms.of(&storage.place()),
            name: name.to_owned(),
            storage,
            verifier: verifier.clone(),
            signer,
            memory: Some(memory).filter(|path| path.parent().is_some_and(std::path::Path::is_dir)),
        }
    }
}

async fn open(settings: &config::Repository, state: &Path) -> Result<Arc<dyn Storage>, Failure> {
    let retrier = Retrier::new(RetryPolicy::default());
    let storage: Arc<dyn Storage> = match &settings.url {
        Place::Directory(path) => Arc::new(DirectoryStorage::open(path)?),
        Place::S3 { bucket, prefix } => {
            let mut s3 = s3_settings(settings, bucket, prefix);
            s3.spill_directory = Some(state.to_owned());
            Arc::new(Retrying::new(Arc::new(S3Storage::connect(s3, None, retrier.clone()).await?), retrier))
        }
    };
    Ok(storage)
}

fn s3_settings(settings: &config::Repository, bucket: &str, prefix: &str) -> S3Settings {
    let mut s3 = S3Settings::new(bucket, prefix);
    s3.region = settings.region.clone();
    s3.endpoint = settings.endpoint.as_ref().map(|endpoint| endpoint.expose().to_string());
    s3.path_style = settings.path_style;
    s3.ca_bundle = settings.ca_bundle.as_ref().map(|path| path.to_path_buf());
    s3.conditional_put = settings.conditional_put;
    s3.sse = match settings.sse.as_deref() {
        None => None,
        Some("AES256") => Some(Sse::Aes256),
        Some(_) => Some(Sse::Kms { key_id: settings.kms_key_id.clone() }),
    };
    s3.lock = settings
        .object_lock
        .as_ref()
        .map(|lock| ObjectLock { compliance: lock.mode == LockMode::Compliance, days: Some(lock.days) });
    if let Some(size) = settings.part_size {
        s3.part_size = size.bytes();
    }
    s3
}
