//! This host and its configuration: warnings, what is not built, the state directory, the room it has.

use std::path::Path;

use crate::host::{Space, durable};
use crate::ops::check::{CheckLine, Doors};

/// Below this share of free room, in percent, somebody should look.
const LITTLE_ROOM: u64 = 15;

/// Below this share a backup may not fit.
const NO_ROOM: u64 = 5;

pub(super) fn check(doors: &Doors) -> Vec<CheckLine> {
    let mut lines = configuration(&doors.warnings);
    lines.push(unbuilt(&doors.unbuilt));
    lines.push(state(&doors.state_directory));
    let directory = doors.state_directory.ancestors().find(|directory| directory.exists());
    let directory = directory.unwrap_or(&doors.state_directory);
    lines.push(room("state-room", "the state directory", directory, doors.disk_percent));
    lines
}

fn configuration(warnings: &[String]) -> Vec<CheckLine> {
    if warnings.is_empty() {
        return vec![CheckLine::ok("configuration", "it is sound and raises no warning")];
    }
    let line = |warning: &String| CheckLine::warn("configuration", warning, "see `dbagent config show`");
    warnings.iter().map(line).collect()
}

fn unbuilt(jobs: &[String]) -> CheckLine {
    if jobs.is_empty() {
        return CheckLine::ok("plan-jobs", "this version runs every job of the plan");
    }
    let message = format!("this version does not run: {}", jobs.join(", "));
    CheckLine::warn("plan-jobs", message, "do by other means what they are for, or switch them off (enabled = false)")
}

fn state(directory: &Path) -> CheckLine {
    const CHECK: &str = "state-directory";
    let place = directory.display();
    if !directory.exists() {
        let message = format!("{place} is not there: a repository that was rolled back would not be noticed");
        return CheckLine::warn(CHECK, message, "`dbagent run` makes it; as root, make it for the agent's user");
    }
    let usable = durable::private_directory(directory)
        .and_then(|()| durable::temporary_directory("check-", directory, None).map(drop));
    match usable {
        Ok(()) => CheckLine::ok(CHECK, format!("{place} is private and can be written to")),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let message = format!("{place}: failed to {error}{cause}");
            CheckLine::fail(CHECK, message, "give it to the user that runs the agent, with mode 0700")
        }
    }
}

/// Whether the file system of `directory` has room. The plan's own limit fails too.
pub(super) fn room(check: &'static str, what: &str, directory: &Path, disk_percent: Option<u8>) -> CheckLine {
    let place = directory.display();
    match Space::at(directory) {
        Err(error) => {
            let message = format!("{what}: failed to ask for the room in {place}: {error}");
            CheckLine::fail(check, message, "check that the directory is there")
        }
        Ok(space) => judge(check, format!("{what}: {}% of {place} is free", space.free_percent()), space, disk_percent),
    }
}

fn judge(check: &'static str, message: String, space: Space, disk_percent: Option<u8>) -> CheckLine {
    let free = space.free_percent();
    let at_least = disk_percent.map_or(NO_ROOM, |used| 100_u64.saturating_sub(used.into()).max(NO_ROOM));
    let remedy = "make room, keep less (`keep` in the plan), or give it a larger disk";
    match free {
        _ if free < at_least => CheckLine::fail(check, message, remedy),
        _ if free < LITTLE_ROOM => CheckLine::warn(check, message, remedy),
        _ => CheckLine::ok(check, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    #[test]
    fn room_below_15_percent_warns_below_5_fails_and_the_plan_may_ask_for_more() {
        let status = |free, percent| judge("r", String::new(), Space { total: 1000, free }, percent).status;
        assert_eq!([status(150, None), status(149, None), status(50, None)], [Status::Ok, Status::Warn, Status::Warn]);
        assert_eq!(status(49, None), Status::Fail);
        assert_eq!([status(199, Some(80)), status(200, Some(80))], [Status::Fail, Status::Ok]);
        assert_eq!(status(49, Some(99)), Status::Fail, "the plan cannot ask for less");
    }

    #[test]
    fn what_is_not_there_or_not_built_is_said() {
        assert_eq!(state(Path::new("/nowhere/at/all")).status, Status::Warn);
        assert_eq!(room("r", "x", Path::new("/nowhere/at/all"), None).status, Status::Fail);
        assert_eq!(unbuilt(&["base".into()]).message, "this version does not run: base");
        assert_eq!(configuration(&["odd".into()])[0].status, Status::Warn);
    }

    #[test]
    fn f23_a_state_directory_that_others_may_write_to_fails() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(state(directory.path()).status, Status::Ok);
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert_eq!(state(directory.path()).status, Status::Fail);
    }
}
