//! The claim "partitions": months ahead are made, and one whose time is over goes only once it is archived and proven.

use crate::app::demo::stage::DATABASE;
use crate::app::demo::tour::{Tour, require};
use crate::app::install::SqlInstaller;
use crate::model::failure::Failure;
use crate::model::outcome::Outcome;
use crate::model::verb::Verb;

/// A month of login attempts that is eight months old; the plan keeps six.
const OLD_MONTH: &str = "DO $$
DECLARE
    month CONSTANT timestamp := date_trunc('month', timezone('UTC', now())) - interval '8 months';
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS public.login_attempts_%s PARTITION OF public.login_attempts FOR VALUES FROM (%L) TO (%L)',
        to_char(month, 'YYYY_MM'), month || '+00', month + interval '1 month' || '+00');
    INSERT INTO public.login_attempts (email, success, attempted_at)
    SELECT 'somebody@example.org', true, (month + make_interval(mins => g)) AT TIME ZONE 'UTC' FROM generate_series(1, 500) g;
END
$$";

/// The month's name, how many rows it has, and whether it is there.
const FACTS: &str = "SELECT 'login_attempts_' || to_char(month, 'YYYY_MM'),
    (SELECT count(*) FROM public.login_attempts
     WHERE attempted_at >= month AT TIME ZONE 'UTC' AND attempted_at < (month + interval '1 month') AT TIME ZONE 'UTC'),
    to_regclass('public.login_attempts_' || to_char(month, 'YYYY_MM')) IS NOT NULL
    FROM (SELECT date_trunc('month', timezone('UTC', now())) - interval '8 months' AS month) old";

impl Tour<'_> {
    pub(super) async fn maintain_partitions(&self) -> Result<String, Failure> {
        let app = &self.stage.app;
        let session = self.session().await?;
        session.batch(OLD_MONTH).await?;
        self.command("dbagent init --install-sql");
        let rules = app.partition_rules()?;
        SqlInstaller::new(app.connection(Verb::Partition, Some(DATABASE))?, rules).install().await?;
        let facts = |row: tokio_postgres::Row| (row.get::<_, String>(0), row.get::<_, i64>(1), row.get::<_, bool>(2));
        let ask = || async {
            session.client().query_one(FACTS, &[]).await.map_err(|error| session.failed("look at the months", error))
        };
        let (month, rows, is_there) = facts(ask().await?);
        require(is_there && rows >= 500, || "make a month that is old".to_owned())?;
        self.guide.events.note(format!("\nOf login_attempts six months are kept; {month} is older, with {rows} rows."));
        self.command("dbagent job run partitions");
        let Outcome { summary, findings, .. } = app.run_job("partitions", None, &self.setting()).await?;
        let told = || findings.first().map(|finding| finding.message.clone()).unwrap_or_default();
        require(findings.is_empty(), || format!("maintain the partitions: {summary}: {}", told()))?;
        let (_, left, is_there) = facts(ask().await?);
        require(!is_there && left == 0, || format!("drop {month}"))?;
        let (_, manifest) = self.latest().await?;
        let archived = manifest.tables.first().filter(|table| manifest.tables.len() == 1 && table.table.name == month);
        let content = archived.and_then(|table| table.content).map(|content| content.rows);
        require(content == u64::try_from(rows).ok(), || format!("archive {month} before it goes"))?;
        Ok(format!(
            "Maintained the {summary}. {month} was archived, read back, compared row for row and only then dropped."
        ))
    }
}
