//! Which artifact a person means: a full id, a unique prefix of one, `latest` or `oldest`.
//!
//! The same artifact in several repositories is one artifact: a selection gives all its copies.

use std::fmt;
use std::str::FromStr;

use crate::catalog::Artifact;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;

/// What a person typed for an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The one with the newest state.
    Latest,
    /// The one with the oldest state.
    Oldest,
    /// The one whose id, or name, begins with this text.
    Prefix(String),
}

impl FromStr for Selector {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "latest" => Self::Latest,
            "oldest" => Self::Oldest,
            prefix => Self::Prefix(prefix.to_owned()),
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Latest => "latest",
            Self::Oldest => "oldest",
            Self::Prefix(prefix) => prefix,
        })
    }
}

impl Selector {
    /// The copies of the one artifact meant, in the order of `artifacts` (oldest first). Errors when none or several
    /// artifacts fit.
    pub fn choose<'a>(&self, artifacts: &'a [Artifact]) -> Result<Vec<&'a Artifact>, Failure> {
        let id = match self {
            Self::Latest => artifacts.iter().max_by_key(|artifact| artifact.manifest.as_of()),
            Self::Oldest => artifacts.iter().min_by_key(|artifact| artifact.manifest.as_of()),
            Self::Prefix(prefix) => return self.by_prefix(prefix, artifacts),
        };
        let Some(id) = id.map(|artifact| artifact.manifest.id) else { return Err(self.nothing()) };
        Ok(copies(id, artifacts))
    }

    fn by_prefix<'a>(&self, prefix: &str, artifacts: &'a [Artifact]) -> Result<Vec<&'a Artifact>, Failure> {
        let fits = |artifact: &&Artifact| {
            artifact.manifest.id.to_string().starts_with(prefix) || artifact.name.to_string().ends_with(prefix)
        };
        let mut ids: Vec<ArtifactId> = artifacts.iter().filter(fits).map(|artifact| artifact.manifest.id).collect();
        ids.sort();
        ids.dedup();
        match ids.as_slice() {
            [] => Err(self.nothing()),
            [id] => Ok(copies(*id, artifacts)),
            several => {
                let message = format!("choose a backup: {} of them begin with {prefix}", several.len());
                Err(Failure::new(FailureKind::Usage, message)
                    .hint("Type more digits; `dbagent backup list` shows them."))
            }
        }
    }

    fn nothing(&self) -> Failure {
        Failure::new(FailureKind::NothingMatches, format!("find a backup that matches {self}"))
            .hint("`dbagent backup list` shows what there is.")
    }
}

fn copies(id: ArtifactId, artifacts: &[Artifact]) -> Vec<&Artifact> {
    artifacts.iter().filter(|artifact| artifact.manifest.id == id).collect()
}
