//! Which formula older rows of the audit log are held to: what is configured, what the database says is pinned and what was
//! signed must be the same; where they are not, somebody has edited one of them, and what was signed decides.

use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::audit::profile::{Profile, Profiles};
use crate::model::digest::Digest;
use crate::postgres::audit::profiles::Pinned;

/// What rows are hashed by, and what is wrong with it.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What rows are hashed by.
    pub profiles: Profiles,
    /// That not all say the same.
    pub finding: Option<ChainFinding>,
}

/// Holds what is `pinned` in the database against what is `configured` and, where a chain with rows was signed, against what was
/// `signed` of it.
pub fn settle(pinned: &Pinned, configured: &Profiles, signed: Option<Option<Digest>>) -> Settled {
    let is_signed = |profiles: &Profiles| signed.is_none_or(|signed| signed == profiles.digest());
    let usable = pinned.fault.is_none() && is_signed(&pinned.profiles);
    let fault = difference(pinned, configured).or_else(|| {
        let message = "they are configured and pinned in audit.profiles, and others were signed";
        (!usable).then(|| message.to_owned())
    });
    let profiles = if usable || !is_signed(configured) { &pinned.profiles } else { configured };
    let finding = fault.map(|fault| {
        let text = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
        let message = format!("the formulas for older rows of the log are not those that were pinned: {fault}");
        let expected = signed.map_or(text(pinned.profiles.digest()), text);
        ChainFinding::new(FindingKind::SchemaChanged, message).differs(Some(expected), Some(text(configured.digest())))
    });
    Settled { profiles: profiles.clone(), finding }
}

/// How configuration and database differ, in words.
fn difference(pinned: &Pinned, configured: &Profiles) -> Option<String> {
    if let Some(fault) = &pinned.fault {
        return Some(fault.clone());
    }
    let in_database = |name: &str| pinned.profiles.iter().find(|profile| profile.name() == name);
    let in_configuration = |name: &str| configured.iter().find(|profile| profile.name() == name);
    let changed = |profile: &Profile| in_database(profile.name()).is_some_and(|other| other != profile);
    let one = |profile: &Profile, what: &str| format!("[audit.profile.{:?}] {what}", profile.name());
    if let Some(edited) = configured.iter().find(|profile| changed(profile)) {
        return Some(one(edited, "is configured in other words than it is pinned in audit.profiles"));
    }
    if let Some(more) = configured.iter().find(|profile| in_database(profile.name()).is_none()) {
        return Some(one(more, "is configured and not pinned in audit.profiles"));
    }
    let gone = pinned.profiles.iter().find(|profile| in_configuration(profile.name()).is_none())?;
    Some(one(gone, "is pinned in audit.profiles and not configured"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::profile::Definition;

    fn of(separator: &str) -> Profiles {
        let definition = Definition {
            name: "app/v2".into(),
            from: "2020-01-01T00:00:00Z".parse().unwrap(),
            until: "2021-01-01T00:00:00Z".parse().unwrap(),
            prefix: String::new(),
            separator: separator.into(),
            suffix: String::new(),
            null: String::new(),
            genesis: None,
            columns: vec!["id".into(), "previous_hash".into()],
        };
        Profiles::of(vec![Profile::of(definition).unwrap()]).unwrap()
    }

    fn pinned(profiles: &Profiles) -> Pinned {
        Pinned { profiles: profiles.clone(), fault: None }
    }

    #[test]
    fn what_was_signed_decides_and_every_difference_is_told() {
        let (good, bad, none) = (of("|"), of(","), Profiles::default());
        let settled = |database: &Profiles, configured: &Profiles, signed: Option<&Profiles>| {
            let settled = settle(&pinned(database), configured, signed.map(Profiles::digest));
            (settled.profiles, settled.finding.map(|finding| finding.message))
        };
        assert_eq!(settled(&good, &good, Some(&good)), (good.clone(), None));
        assert_eq!(settled(&good, &good, None), (good.clone(), None), "nothing is signed yet");
        assert_eq!(settled(&none, &none, Some(&none)), (none.clone(), None));
        for (database, configured, signed, used, words) in [
            (&good, &bad, Some(&good), &good, "other words"),
            (&bad, &good, Some(&good), &good, "other words"),
            (&bad, &good, None, &bad, "other words"),
            (&good, &none, Some(&good), &good, "not configured"),
            (&none, &good, Some(&good), &good, "not pinned"),
            (&none, &good, Some(&none), &none, "not pinned"),
            (&bad, &bad, Some(&good), &bad, "others were signed"),
            (&none, &none, Some(&good), &none, "others were signed"),
        ] {
            let (profiles, told) = settled(database, configured, signed);
            assert_eq!(&profiles, used, "{words}");
            assert!(told.as_ref().is_some_and(|told| told.contains(words)), "{words}: {told:?}");
        }
    }

    #[test]
    fn a_row_of_the_database_that_is_no_definition_is_told_and_not_used() {
        let broken =
            Pinned { profiles: Profiles::default(), fault: Some("\"x\" of audit.profiles is no definition".into()) };
        let settled = settle(&broken, &of("|"), Some(of("|").digest()));
        assert_eq!(settled.profiles, of("|"));
        assert!(settled.finding.unwrap().message.contains("no definition"));
    }
}
