//! A site with a table in monthly partitions, maintained by a login that owns nothing.

use std::time::Duration;

use dbagent::app::install::{SqlInstaller, SqlPlan};
use dbagent::model::outcome::Outcome;
use dbagent::model::partition::Rule;
use dbagent::ops::partition::{self, TableRule};
use dbagent::postgres::{Connection, ConnectionRequest};

use super::site::Site;

/// Months of rows before the present one that the table begins with.
pub const PAST: u32 = 8;

/// Table `visits`: months -8 to 0, 40 rows in each, a trigger, grants, and no month ahead.
const VISITS: &str = "
CREATE ROLE app NOLOGIN;
CREATE ROLE landlord NOLOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO landlord;
SET ROLE landlord;
CREATE TABLE visits (id bigserial, at timestamptz NOT NULL DEFAULT now(), who text NOT NULL CHECK (who <> ''), seen int,
    loud text GENERATED ALWAYS AS (upper(who)) STORED, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX visits_who ON visits (who);
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.seen := coalesce(NEW.seen, 0) + 1; RETURN NEW; END$$;
CREATE TRIGGER mark BEFORE INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION mark();
ALTER TABLE visits ENABLE ALWAYS TRIGGER mark;
ALTER TABLE visits ALTER COLUMN who SET STATISTICS 321;
ALTER TABLE visits REPLICA IDENTITY FULL;
GRANT SELECT, INSERT ON visits TO app; GRANT UPDATE (seen) ON visits TO app;
SET timezone = 'UTC';
DO $$
DECLARE month timestamptz;
BEGIN
    FOR back IN REVERSE 8..0 LOOP
        month := date_trunc('month', now()) - make_interval(months => back);
        EXECUTE format('CREATE TABLE visits_%s PARTITION OF visits FOR VALUES FROM (%L) TO (%L) WITH (fillfactor = 77)',
            to_char(month, 'YYYY_MM'), month, month + interval '1 month');
        INSERT INTO visits (at, who) SELECT month + make_interval(mins => g), 'guest ' || g FROM generate_series(1, 40) g;
    END LOOP;
END $$;
RESET ROLE;
CREATE ROLE dbagent_dump NOLOGIN BYPASSRLS; GRANT pg_read_all_data TO dbagent_dump;
";

/// The agent's login, once its roles are there.
const LOGIN: &str = "CREATE ROLE keeper LOGIN NOINHERIT; GRANT dbagent_part, dbagent_dump TO keeper; \
    ALTER ROLE keeper SET default_transaction_read_only = on;";

pub struct Yard {
    pub site: Site,
    pub rule: TableRule,
}

impl Yard {
    /// The table and everything installed; six months are kept, three made ahead.
    pub async fn new() -> Self {
        Self::with(Site::new()).await
    }

    pub async fn with(site: Site) -> Self {
        site.ask(VISITS);
        let rule = Rule {
            key: "at".into(),
            retention: Some("6 months".parse().unwrap()),
            premake: 3,
            seal: false,
            archive: true,
            keep_detached: false,
        };
        let rule = TableRule { name: "visits".parse().unwrap(), rule, lock_timeout: Duration::from_millis(300) };
        let yard = Self { site, rule };
        yard.install().await;
        yard.ask(LOGIN);
        yard
    }

    pub fn ask(&self, query: &str) -> String {
        self.site.ask(query)
    }

    /// The same as the table's owner.
    pub fn as_owner(&self, statements: &str) {
        self.site.ask(&format!("SET ROLE landlord; {statements}"));
    }

    /// Installs the functions, and registers the rule as it is now.
    pub async fn install(&self) -> SqlPlan {
        SqlInstaller::new(self.site.connection(), vec![self.rule.clone()]).install().await.unwrap()
    }

    /// The login `keeper`, acting as `role`.
    pub fn keeper(&self, role: &str) -> Connection {
        let request = ConnectionRequest {
            host: Some(self.site.server.directory().display().to_string()),
            port: Some(self.site.server.port()),
            user: Some("keeper".into()),
            database: Some("shop".into()),
            role: Some(role.into()),
            ..ConnectionRequest::default()
        };
        request.resolve().unwrap()
    }

    pub fn options(&self) -> partition::Options {
        let archive = dbagent::ops::dump::Options {
            job: "partitions".into(),
            folder: "partitions".into(),
            name_prefix: "partitions".into(),
            ..self.site.dump_options()
        };
        partition::Options { rules: vec![self.rule.clone()], archive, keep_detached: false }
    }

    pub fn doors(&self) -> partition::Doors {
        let reader = self.keeper("dbagent_dump");
        let archive = dbagent::ops::dump::Doors { connection: reader.clone(), ..self.site.dump_doors() };
        partition::Doors { connection: self.keeper("dbagent_part"), reader, archive: Ok(archive), sealing: None }
    }

    pub async fn maintain(&self) -> Outcome {
        partition::run(&self.options(), &self.doors(), &self.site.setting()).await.unwrap()
    }

    /// Name of the month so many months ahead of the present one, as in `visits_2026_03`.
    pub fn month(&self, ahead: i32) -> String {
        self.ask(&format!(
            "SELECT to_char(timezone('UTC', now()) + make_interval(months => {ahead}), '\"visits_\"YYYY\"_\"MM')"
        ))
    }

    /// The partitions that are there, without the default one.
    pub fn partitions(&self) -> Vec<String> {
        let names = self.ask(
            "SELECT string_agg(relid::regclass::text, ' ' ORDER BY relid::regclass::text) FROM pg_partition_tree('visits') \
             WHERE level = 1 AND pg_get_expr((SELECT relpartbound FROM pg_class WHERE oid = relid), relid) <> 'DEFAULT'",
        );
        names.split(' ').map(str::to_owned).collect()
    }

    /// The names of these months.
    pub fn months(&self, ahead: std::ops::RangeInclusive<i32>) -> Vec<String> {
        ahead.map(|ahead| self.month(ahead)).collect()
    }
}

/// The codes of an outcome's findings, without the alarm that what stayed is overdue by more than a month.
pub fn codes(outcome: &Outcome) -> Vec<&str> {
    outcome.findings.iter().map(|finding| finding.code.as_str()).filter(|code| *code != "retention-overdue").collect()
}
