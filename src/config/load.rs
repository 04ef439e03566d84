//! Loading: find the file, merge the environment, decode, validate, read the plan.
//!
//! All errors of one stage are told together. A file that holds a secret and can be read by others is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::decode::decode;
use crate::config::encryption::Encryption;
use crate::config::environment::{self, CONFIG_VARIABLE, Environment};
use crate::config::error::{ConfigError, ConfigErrors, Origin, nearest};
use crate::config::files;
use crate::config::plan::{BUILT_IN, Plan};
use crate::config::plan_rules;
use crate::config::problems::Problems;
use crate::config::settings::Config;
use crate::config::tree::{self, Node};
use crate::config::validate;

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The file of `--config`; it must be there.
    pub path: Option<PathBuf>,
    /// Files to look for without it and without `DBAGENT_CONFIG`; the first that is there counts.
    pub search: Vec<PathBuf>,
}

impl Default for LoadRequest {
    fn default() -> Self {
        Self { path: None, search: vec!["dbagent.toml".into(), "/etc/dbagent/dbagent.toml".into()] }
    }
}

/// A configuration that holds together.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// The plan it names.
    pub plan: Option<Plan>,
    /// The file it came from; absent when the environment says everything.
    pub file: Option<PathBuf>,
    /// Where each written value stands, by dotted key.
    pub origins: BTreeMap<String, Origin>,
    /// What is allowed and probably not meant, a sentence each.
    pub warnings: Vec<String>,
}

/// Loads the configuration and its plan.
pub fn load(request: &LoadRequest, environment: &Environment) -> Result<Loaded, ConfigErrors> {
    let (file, mut root) = find(request, environment)?;
    let mut errors = environment::overlay(&mut root, environment);
    errors.extend(environment::fill_from_aliases(&mut root, environment));
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let config: Config = decode(&root).map_err(ConfigErrors)?;
    let origins = root.origins();
    let mut problems = Problems::new(&origins, root.origin.clone());
    validate::validate(&config, &mut problems);
    check_secrets(&config, &origins, &mut problems);
    let (errors, mut warnings) = (problems.errors, problems.warnings);
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    let plan = plan_of(&config, &origins, &mut warnings)?;
    warnings.extend(environment.warnings());
    Ok(Loaded { config, plan, file, origins, warnings })
}

/// Loads the plan `name`: a built-in one by name, else a file, relative to `folder`. `repositories` are those of the
/// configuration. Gives the plan and its warnings.
pub fn load_plan(name: &str, folder: &Path, repositories: &[&str]) -> Result<(Plan, Vec<String>), ConfigErrors> {
    read_plan(name, folder, &Origin::Default, repositories)
}

fn find(request: &LoadRequest, environment: &Environment) -> Result<(Option<PathBuf>, Node), ConfigErrors> {
    let named = request.path.clone().or_else(|| environment.get(CONFIG_VARIABLE).map(PathBuf::from));
    let candidates = named.as_ref().map_or(request.search.as_slice(), std::slice::from_ref);
    for path in candidates {
        if let Some(text) = files::read(path)? {
            let root = tree::parse(path, &text).map_err(ConfigErrors)?;
            return Ok((Some(path.clone()), root));
        }
    }
    if named.is_none() && environment.configures() {
        return Ok((None, Node::empty()));
    }
    let looked: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
    let message =
        format!("there is no {}; dbagent init writes one, dbagent config example shows one", looked.join(" or "));
    Err(ConfigError::new(Origin::Default, "", message).into())
}

fn plan_of(
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    warnings: &mut Vec<String>,
) -> Result<Option<Plan>, ConfigErrors> {
    let Some(name) = &config.plan else { return Ok(None) };
    let origin = origins.get("plan").cloned().unwrap_or_default();
    let folder = match &origin {
        Origin::File { file, .. } => file.parent().unwrap_or(Path::new("")).to_owned(),
        _ => PathBuf::new(),
    };
    let repositories: Vec<_> = config.repository.keys().map(String::as_str).collect();
    let (plan, more) = read_plan(name, &folder, &origin, &repositories)?;
    warnings.extend(more);
    Ok(Some(plan))
}

fn read_plan(
    name: &str,
    folder: &Path,
    origin: &Origin,
    repositories: &[&str],
) -> Result<(Plan, Vec<String>), ConfigErrors> {
    let built_in = BUILT_IN.iter().find(|(built_in, _)| *built_in == name);
    let (path, text) = match built_in {
        Some((_, text)) => (PathBuf::from(name), (*text).to_owned()),
        None => plan_file(name, folder, origin)?,
    };
    let root = tree::parse(&path, &text).map_err(ConfigErrors)?;
    let mut plan: Plan = decode(&root).map_err(ConfigErrors)?;
    if plan.name.is_empty() {
        plan.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    let origins = root.origins();
    let mut problems = Problems::new(&origins, root.origin.clone());
    plan_rules::validate(&plan, repositories, &mut problems);
    for (name, rule) in &plan.purge {
        if rule.password.is_some() {
            check_secret(&format!("purge.{name}.password"), &origins, &mut problems);
        }
    }
    let Problems { errors, warnings, .. } = problems;
    if errors.is_empty() { Ok((plan, warnings)) } else { Err(ConfigErrors(errors)) }
}

fn plan_file(name: &str, folder: &Path, origin: &Origin) -> Result<(PathBuf, String), ConfigErrors> {
    let path = folder.join(name);
    if let Some(text) = files::read(&path)? {
        return Ok((path, text));
    }
    let names = BUILT_IN.map(|(name, _)| name);
    let message = format!("there is no plan {}, and none built in by that name ({})", path.display(), names.join(", "));
    let suggestion = nearest(name, names);
    Err(ConfigError { suggestion, ..ConfigError::new(origin.clone(), "plan", message) }.into())
}

/// Every secret that is written out must stand where others cannot read it.
fn check_secrets(config: &Config, origins: &BTreeMap<String, Origin>, problems: &mut Problems<'_>) {
    let postgres = &config.postgres;
    let openpgp = config.encryption.as_ref().and_then(Encryption::openpgp);
    let mut keys: Vec<String> = Vec::new();
    let mut note = |written: bool, key: &str| keys.extend(written.then(|| key.to_owned()));
    note(postgres.password.is_some(), "postgres.password");
    note(postgres.url.as_ref().is_some_and(|url| url.holds_password()), "postgres.url");
    note(postgres.replication.as_ref().is_some_and(|login| login.password.is_some()), "postgres.replication.password");
    note(openpgp.is_some_and(|keys| keys.signing_key_passphrase.is_some()), "encryption.signing_key_passphrase");
    note(openpgp.is_some_and(|keys| keys.decryption_key_passphrase.is_some()), "encryption.decryption_key_passphrase");
    note(config.notify.smtp.as_ref().is_some_and(|smtp| smtp.password.is_some()), "notify.smtp.password");
    for (name, webhook) in &config.notify.webhook {
        note(true, &format!("notify.webhook.{name}.url"));
        note(webhook.secret.is_some(), &format!("notify.webhook.{name}.secret"));
    }
    config.notify.ping.keys().for_each(|name| note(true, &format!("notify.ping.{name}")));
    keys.iter().for_each(|key| check_secret(key, origins, problems));
}

fn check_secret(key: &str, origins: &BTreeMap<String, Origin>, problems: &mut Problems<'_>) {
    if let Some(origin @ Origin::File { file, .. }) = origins.get(key) {
        problems.errors.extend(files::check_private(file, origin, key).err());
    }
}
