//! What to do about failures whose cause only PostgreSQL's own words, or the kind of the server, tell.

use crate::model::failure::Failure;
use crate::postgres::Coordinator;

/// What PostgreSQL says of a row or value that does not fit the one gigabyte a message may have (src/common/stringinfo.c,
/// src/backend/utils/mmgr/mcxt.c).
const TOO_LONG: [&str; 2] = ["invalid memory alloc request size", "Cannot enlarge string buffer"];

/// `failure` of the streams of a dump or an increment with advice, where there is any better than its own.
pub async fn advise(failure: Failure, coordinator: &Coordinator) -> Failure {
    let said = failure.full_message();
    if TOO_LONG.iter().any(|words| said.contains(words)) {
        return failure.hint(
            "A row is longer than the 1 GB that PostgreSQL can send as text (a bytea takes two digits a byte). Shorten it, \
             or leave its table out of this job and back it up physically.",
        );
    }
    let cancelled = said.contains("conflict with recovery") || coordinator.require_alive().await.is_err();
    if coordinator.is_on_standby() && cancelled {
        return failure.hint(
            "This server is a standby, and replay took the dump's snapshot away: set hot_standby_feedback = on there, or \
             raise max_standby_streaming_delay. The job may be run again as it is.",
        );
    }
    failure
}
