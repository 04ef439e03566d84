-- Demo data, generator: rows of the BC-003 tables that are a function of their number.
--
-- purpose     bc003_generator.fill_reference(first_month, months, users): partitions, and what is not a matter of months
--             bc003_generator.fill_month(first_month, month, users, audit_rows): one month, counted from 0, of audit_rows
--             audit rows, and for each 80 of them 3 sessions, 5 security events and 8 login attempts
-- parameters  first_month date (a first of a month); months, users and audit_rows at least 1
-- apply       vocabulary.sql, this file, fill_reference once, fill_month for each month (months in parallel, if wanted,
--             over several connections), drop.sql; into the empty tables of sql/bc-003/
-- privilege   superuser: session_replication_role = replica keeps triggers and foreign key checks out of the way
-- versions    PostgreSQL 14 to 18, the same rows on each
--
-- Every value comes from SHA-2 over table, month and number: no random(), no clock, and UTC, for elsewhere a day is not
-- always 24 hours. Rows are in order of time, as a real log is. hash and previous_hash of audit_logs are linked and look
-- real, but are not those of the hash profile: `dbagent audit backfill` chains the table, as it does any existing log.

CREATE FUNCTION bc003_generator.digest(name text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.sha512(pg_catalog.convert_to(name, 'UTF8'));

-- The 24-bit number at byte `place`.
CREATE FUNCTION bc003_generator.number_at(digest bytea, place integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (pg_catalog.get_byte(digest, place) << 16) | (pg_catalog.get_byte(digest, place + 1) << 8)
    | pg_catalog.get_byte(digest, place + 2);

-- A number below `size`, the small ones far more often, from the 24 bits at byte `place`.
CREATE FUNCTION bc003_generator.favoured(digest bytea, place integer, size integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (((bc003_generator.number_at(digest, place)::bigint * bc003_generator.number_at(digest, place) >> 24) * size)
    >> 24)::integer;

-- A random-looking UUID from the 16 bytes at byte `place`.
CREATE FUNCTION bc003_generator.uuid_at(digest bytea, place integer) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.overlay(pg_catalog.overlay(
    pg_catalog.encode(pg_catalog.substr(digest, place + 1, 16), 'hex'), '4', 13, 1), 'a', 17, 1)::uuid;

CREATE FUNCTION bc003_generator.hex_at(digest bytea, place integer, bytes integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.encode(pg_catalog.substr(digest, place + 1, bytes), 'hex');

CREATE FUNCTION bc003_generator.user_id(number integer) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN bc003_generator.uuid_at(bc003_generator.digest('user/' || number), 0);

-- Something that reads like a bcrypt hash.
CREATE FUNCTION bc003_generator.bcrypt_at(digest bytea) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '$2b$12$' || pg_catalog.substr(
    pg_catalog.translate(pg_catalog.encode(pg_catalog.substr(digest, 1, 42), 'base64'), '+=', '.'), 1, 53);

-- `count` words, two bytes each from byte `place`. plpgsql, because only there an array passed on is indexed at once.
CREATE FUNCTION bc003_generator.phrase(words text[], digest bytea, place integer, count integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    phrase text := words[((get_byte(digest, place) << 8) | get_byte(digest, place + 1)) + 1];
BEGIN
    FOR at IN place + 2 .. place + 2 * count - 2 BY 2 LOOP
        phrase := phrase || ' ' || words[((get_byte(digest, at) << 8) | get_byte(digest, at + 1)) + 1];
    END LOOP;
    RETURN phrase;
END
$$;

CREATE FUNCTION bc003_generator.user_email(words text[], number integer) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN replace(bc003_generator.phrase(words, bc003_generator.digest('user/' || number), 16, 2), ' ', '.')
        || number || '@example.com';
END
$$;

-- Details of one of five kinds, as the application's modules write them.
CREATE FUNCTION bc003_generator.details(words text[], digest bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    statuses CONSTANT text[] := '{draft,submitted,in_review,approved,rejected,archived,sent,paid}';
    methods CONSTANT text[] := '{GET,POST,PUT,PATCH}';
    codes CONSTANT text[] := '{200,200,200,201,204,304,400,403}';
    resources CONSTANT text[] := '{invoices,timesheets,projects,clients,contracts,expenses,documents,reports}';
    kind CONSTANT integer := get_byte(digest, 0);
    a CONSTANT integer := bc003_generator.number_at(digest, 1);
    b CONSTANT integer := bc003_generator.number_at(digest, 4);
    c CONSTANT integer := bc003_generator.number_at(digest, 7);
    d CONSTANT integer := bc003_generator.number_at(digest, 10);
    written text;
BEGIN
    IF kind < 90 THEN
        written := '{"request_id": "' || bc003_generator.hex_at(digest, 40, 8) || '", "changes": {"status": ["'
            || statuses[1 + (a & 7)] || '", "' || statuses[1 + (b & 7)] || '"], "hours": [' || (a >> 8) % 12 || '.'
            || 10 + (a >> 3) % 90 || ', ' || (b >> 8) % 12 || '.' || 10 + (b >> 3) % 90 || '], "amount": ' || c % 9000
            || '.' || 10 + d % 90 || '}, "reason": "' || bc003_generator.phrase(words, digest, 16, 9)
            || '", "duration_ms": ' || (d & 2047) || '}';
    ELSIF kind < 154 THEN
        written := '{"path": "/api/v1/' || resources[1 + (a & 7)] || '/' || (a >> 7) || '", "method": "'
            || methods[1 + (b & 3)] || '", "status_code": ' || codes[1 + ((b >> 2) & 7)] || ', "query": "'
            || bc003_generator.phrase(words, digest, 16, 4) || '", "bytes": ' || (c & 65535) || ', "duration_ms": '
            || (d & 1023) || ', "trace": "' || bc003_generator.hex_at(digest, 40, 12) || '"}';
    ELSIF kind < 210 THEN
        written := '{"project": "PRJ-' || 1000 + (a & 4095) || '", "title": "'
            || bc003_generator.phrase(words, digest, 16, 6) || '", "description": "'
            || bc003_generator.phrase(words, digest, 28, 18) || '", "tags": ["'
            || bc003_generator.phrase(words, digest, 1, 1) || '", "'
            || bc003_generator.phrase(words, digest, 3, 1) || '", "'
            || bc003_generator.phrase(words, digest, 5, 1) || '"], "budget": ' || c % 250000 || '.' || 10 + d % 90
            || ', "owner": "' || bc003_generator.uuid_at(digest, 1) || '"}';
    ELSIF kind < 240 THEN
        written := '{"file": "' || replace(bc003_generator.phrase(words, digest, 16, 2), ' ', '_') || '_' || (a & 16383)
            || '.pdf", "size": ' || (b >> 1) || ', "sha1": "'
            || bc003_generator.hex_at(digest, 44, 20) || '", "comment": "'
            || bc003_generator.phrase(words, digest, 20, 12) || '"}';
    ELSE
        written := '{"message": "' || bc003_generator.phrase(words, digest, 16, 24) || '", "severity": "'
            || (ARRAY['low', 'medium', 'high'])[1 + a % 3] || '", "counters": {"retries": ' || (b & 7) || ', "items": '
            || (b >> 15) || ', "latency": ' || c % 3 || '.' || 1000 + d % 9000 || '}}';
    END IF;
    RETURN written::jsonb;
END
$$;

CREATE FUNCTION bc003_generator.user_rows(first_month date, users integer) RETURNS SETOF public.users
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := (SELECT pools.words FROM bc003_generator.pools);
    statuses CONSTANT text[] := '{active,active,active,active,active,locked,invited,disabled}';
    day_before CONSTANT timestamptz := first_month::timestamp AT TIME ZONE 'UTC';
    digest bytea;
    extra bytea;
    person public.users;
BEGIN
    FOR number IN 0 .. users - 1 LOOP
        digest := bc003_generator.digest('user/' || number);
        extra := sha512(digest);
        person.id := bc003_generator.uuid_at(digest, 0);
        person.email := bc003_generator.user_email(words, number);
        person.first_name := initcap(bc003_generator.phrase(words, digest, 16, 1));
        person.last_name := initcap(bc003_generator.phrase(words, digest, 18, 1));
        person.password_hash := bc003_generator.bcrypt_at(extra);
        person.created_at := day_before - interval '1 day' * (60 + get_byte(digest, 20))
            - interval '1 second' * bc003_generator.number_at(digest, 21);
        person.updated_at := day_before - interval '1 second' * (bc003_generator.number_at(digest, 24) % 5000000);
        person.password_changed_at := person.updated_at;
        person.last_login_at := CASE WHEN get_byte(digest, 27) < 240 THEN person.updated_at END;
        person.status := statuses[1 + get_byte(digest, 28) % 8];
        person.failed_login_attempts := CASE person.status WHEN 'locked' THEN 5 ELSE 0 END;
        person.mfa_enabled := get_byte(digest, 29) < 100;
        -- The first bytes of an OpenPGP symmetric-key session packet, then what looks like ciphertext.
        person.mfa_secret := CASE WHEN person.mfa_enabled
            THEN '\xc30d04070302'::bytea || sha512(extra) || substr(digest, 1, 12) END;
        person.profile := ('{"department": "' || bc003_generator.phrase(words, digest, 30, 2) || '", "bio": "'
            || bc003_generator.phrase(words, extra, 0, 20) || '", "rate": ' || get_byte(digest, 34) || '.50}')::jsonb;
        RETURN NEXT person;
    END LOOP;
END
$$;

-- Partitions for the months that have none. Bounds are in UTC: audit_logs has a timestamp, the others a timestamptz.
CREATE FUNCTION bc003_generator.make_partitions(first_month date, months integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    parent text;
    midnight text;
    month timestamp;
BEGIN
    FOR parent, midnight, month IN
        SELECT parents.name, parents.midnight, first_month + make_interval(months => ahead)
        FROM (VALUES ('audit_logs', ''), ('security_events', ' 00:00:00+00'), ('login_attempts', ' 00:00:00+00'))
                 AS parents (name, midnight),
             generate_series(0, months - 1) AS ahead
    LOOP
        EXECUTE format('CREATE TABLE IF NOT EXISTS public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)',
            parent || to_char(month, '_YYYY_MM'), parent, to_char(month, 'YYYY-MM-DD') || midnight,
            to_char(month + interval '1 month', 'YYYY-MM-DD') || midnight);
    END LOOP;
END
$$;

-- Everything that is not a matter of months: users, the roles they have, and their old passwords.
CREATE FUNCTION bc003_generator.fill_reference(first_month date, months integer, users integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET session_replication_role = replica AS $$
DECLARE
    resources CONSTANT text[] := '{invoices,timesheets,projects,clients,contracts,expenses,documents,reports,tasks,'
        'comments,payments,budgets}';
    actions CONSTANT text[] := '{read,write,delete,approve,export,archive,share,comment,assign,print,import,restore}';
    day_before CONSTANT timestamptz := first_month::timestamp AT TIME ZONE 'UTC' - interval '1 day';
BEGIN
    PERFORM bc003_generator.make_partitions(first_month, months);
    INSERT INTO public.users SELECT * FROM bc003_generator.user_rows(first_month, users);

    INSERT INTO public.roles (id, name, description, created_at, updated_at)
    SELECT bc003_generator.uuid_at(bc003_generator.digest('role/' || number), 0), 'team_' || number,
           'Members of team ' || number, day_before, day_before
    FROM generate_series(1, 8) AS number;

    INSERT INTO public.permissions (id, resource, action, description, created_at, updated_at)
    SELECT bc003_generator.uuid_at(bc003_generator.digest('permission/' || resource || '/' || action), 0),
           resource, action, action || ' ' || resource, day_before, day_before
    FROM unnest(resources) AS resource, unnest(actions) AS action;

    INSERT INTO public.role_permissions (role_id, permission_id, granted_at)
    SELECT roles.id, permissions.id, day_before
    FROM public.roles, public.permissions
    WHERE NOT roles.is_system AND get_byte(sha256(convert_to(roles.name || permissions.id, 'UTF8')), 0) < 90;

    INSERT INTO public.user_roles (user_id, role_id, granted_at)
    SELECT id, '00000000-0000-4000-a001-000000000004', created_at FROM public.users
    UNION ALL
    SELECT bc003_generator.user_id(number),
           bc003_generator.uuid_at(bc003_generator.digest('role/' || 1 + number % 8), 0), day_before
    FROM generate_series(0, users - 1, 3) AS number;

    INSERT INTO public.password_history (id, user_id, password_hash, set_at, replaced_at)
    SELECT bc003_generator.uuid_at(digest, 42), bc003_generator.user_id(number / 3),
           bc003_generator.bcrypt_at(digest), replaced_at - interval '90 days', replaced_at
    FROM generate_series(0, 3 * users - 1) AS number, bc003_generator.digest('password/' || number) AS digest,
         LATERAL (SELECT day_before - interval '90 days' * (3 - number % 3)
                         - interval '1 second' * (bc003_generator.number_at(digest, 58) % 86400)) AS old (replaced_at);
END
$$;

-- When row `number` of `rows` of the month happened: later than the row before it.
CREATE FUNCTION bc003_generator.moment(month_start timestamp, number integer, rows integer, digest bytea, place integer)
RETURNS timestamp
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    length CONSTANT interval := (month_start + interval '1 month') - month_start;
    step CONSTANT bigint := extract(epoch FROM length)::bigint * 1000000 / rows;
BEGIN
    RETURN month_start + interval '1 microsecond'
        * (number * step + ((step >> 12) * bc003_generator.number_at(digest, place) >> 12));
END
$$;

CREATE FUNCTION bc003_generator.session_rows(first_month date, month integer, users integer, rows integer)
RETURNS SETOF public.sessions
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    agents CONSTANT text[] := (SELECT pools.agents FROM bc003_generator.pools);
    addresses CONSTANT text[] := (SELECT pools.addresses FROM bc003_generator.pools);
    month_start CONSTANT timestamp := first_month + make_interval(months => month);
    digest bytea;
    session public.sessions;
BEGIN
    FOR number IN 0 .. rows - 1 LOOP
        digest := bc003_generator.digest('session/' || month || '/' || number);
        session.id := bc003_generator.uuid_at(digest, 0);
        session.user_id := bc003_generator.user_id(bc003_generator.favoured(digest, 16, users));
        session.token_hash := encode(sha256(digest), 'hex');
        session.ip_address := addresses[1 + bc003_generator.favoured(digest, 19, 6000)];
        session.user_agent := agents[1 + bc003_generator.favoured(digest, 22, 400)];
        session.created_at := bc003_generator.moment(month_start, number, rows, digest, 25) AT TIME ZONE 'UTC';
        session.last_seen_at := session.created_at + interval '1 second'
            * (bc003_generator.number_at(digest, 28) % 36000);
        session.expires_at := session.created_at + interval '12 hours';
        session.revoked_at := CASE WHEN get_byte(digest, 31) < 26 THEN session.last_seen_at END;
        session.revoke_reason := CASE WHEN get_byte(digest, 31) < 26 THEN 'signed_out' END;
        session.updated_at := session.last_seen_at;
        RETURN NEXT session;
    END LOOP;
END
$$;

CREATE FUNCTION bc003_generator.audit_hash(month integer, number integer) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.encode(pg_catalog.sha256(bc003_generator.digest('audit/' || month || '/' || number)), 'hex');

-- Rows `first_row` to `last_row` of the month's `rows`. Each belongs to one of the month's newest sessions at its time.
CREATE FUNCTION bc003_generator.audit_rows(
    first_month date, month integer, users integer, rows integer, first_row integer, last_row integer)
RETURNS SETOF public.audit_logs
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := (SELECT pools.words FROM bc003_generator.pools);
    agents CONSTANT text[] := (SELECT pools.agents FROM bc003_generator.pools);
    addresses CONSTANT text[] := (SELECT pools.addresses FROM bc003_generator.pools);
    resources CONSTANT text[] := '{invoice,timesheet,project,client,contract,expense,document,user,report,task,'
        'comment,payment}';
    verbs CONSTANT text[] := '{create,update,update,update,view,view,view,view,delete,approve,export,archive}';
    month_start CONSTANT timestamp := first_month + make_interval(months => month);
    sessions CONSTANT integer := greatest(1, rows * 3 / 80);
    digest bytea;
    session bytea;
    entry public.audit_logs;
BEGIN
    entry.hash := CASE WHEN first_row > 0 THEN bc003_generator.audit_hash(month, first_row - 1)
                       WHEN month > 0 THEN bc003_generator.audit_hash(month - 1, rows - 1) END;
    FOR number IN first_row .. last_row LOOP
        digest := bc003_generator.digest('audit/' || month || '/' || number);
        session := bc003_generator.digest('session/' || month || '/'
            || abs(number::bigint * sessions / rows - bc003_generator.favoured(digest, 32, 1500)) % sessions);
        entry.id := bc003_generator.uuid_at(digest, 0);
        entry.user_id := bc003_generator.user_id(bc003_generator.favoured(session, 16, users));
        entry.session_id := bc003_generator.uuid_at(session, 0);
        entry.resource := resources[1 + get_byte(digest, 35) % 12];
        entry.action := entry.resource || '.' || verbs[1 + get_byte(digest, 36) % 12];
        entry.resource_id := bc003_generator.uuid_at(digest, 16)::text;
        entry.details := bc003_generator.details(words, sha512(digest));
        entry.ip_address := addresses[1 + bc003_generator.favoured(session, 19, 6000)];
        entry.user_agent := agents[1 + bc003_generator.favoured(session, 22, 400)];
        entry.success := get_byte(digest, 37) >= 8;
        entry.error_code := CASE WHEN NOT entry.success THEN 'E' || 4000 + get_byte(digest, 38) % 40 END;
        entry.error_message := CASE WHEN NOT entry.success THEN bc003_generator.phrase(words, digest, 46, 8) END;
        entry.previous_hash := entry.hash;
        entry.hash := encode(sha256(digest), 'hex');
        entry.recorded_at := bc003_generator.moment(month_start, number, rows, digest, 39);
        RETURN NEXT entry;
    END LOOP;
END
$$;

CREATE FUNCTION bc003_generator.security_event_rows(first_month date, month integer, users integer, rows integer)
RETURNS SETOF public.security_events
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := (SELECT pools.words FROM bc003_generator.pools);
    addresses CONSTANT text[] := (SELECT pools.addresses FROM bc003_generator.pools);
    types CONSTANT text[] := '{mfa_failed,password_reset,privilege_change,token_revoked,suspicious_login}';
    severities CONSTANT text[] := '{low,low,low,medium,medium,high,critical}';
    month_start CONSTANT timestamp := first_month + make_interval(months => month);
    digest bytea;
    event public.security_events;
BEGIN
    FOR number IN 0 .. rows - 1 LOOP
        digest := bc003_generator.digest('event/' || month || '/' || number);
        event.id := bc003_generator.uuid_at(digest, 0);
        event.event_type := types[1 + get_byte(digest, 16) % 5];
        event.severity := severities[1 + get_byte(digest, 17) % 7];
        event.user_id := bc003_generator.user_id(bc003_generator.favoured(digest, 18, users));
        event.description := replace(event.event_type, '_', ' ') || ': ' || bc003_generator.phrase(words, digest, 46, 5);
        event.details := bc003_generator.details(words, sha512(digest));
        event.ip_address := addresses[1 + bc003_generator.favoured(digest, 21, 6000)];
        event.detected_at := bc003_generator.moment(month_start, number, rows, digest, 24) AT TIME ZONE 'UTC';
        event.resolved_at := CASE WHEN get_byte(digest, 27) < 200
            THEN event.detected_at + interval '1 second' * (bc003_generator.number_at(digest, 28) % 500000) END;
        RETURN NEXT event;
    END LOOP;
END
$$;

CREATE FUNCTION bc003_generator.login_attempt_rows(first_month date, month integer, users integer, rows integer)
RETURNS SETOF public.login_attempts
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    words CONSTANT text[] := (SELECT pools.words FROM bc003_generator.pools);
    agents CONSTANT text[] := (SELECT pools.agents FROM bc003_generator.pools);
    addresses CONSTANT text[] := (SELECT pools.addresses FROM bc003_generator.pools);
    reasons CONSTANT text[] := '{bad_password,bad_password,bad_password,unknown_user,mfa_failed,locked}';
    month_start CONSTANT timestamp := first_month + make_interval(months => month);
    digest bytea;
    attempt public.login_attempts;
BEGIN
    FOR number IN 0 .. rows - 1 LOOP
        digest := bc003_generator.digest('login/' || month || '/' || number);
        attempt.id := bc003_generator.uuid_at(digest, 0);
        attempt.email := bc003_generator.user_email(words, bc003_generator.favoured(digest, 16, users));
        attempt.ip_address := addresses[1 + bc003_generator.favoured(digest, 19, 6000)];
        attempt.user_agent := agents[1 + bc003_generator.favoured(digest, 22, 400)];
        attempt.success := get_byte(digest, 25) >= 26;
        attempt.failure_reason := CASE WHEN NOT attempt.success THEN reasons[1 + get_byte(digest, 26) % 6] END;
        attempt.attempted_at := bc003_generator.moment(month_start, number, rows, digest, 27) AT TIME ZONE 'UTC';
        RETURN NEXT attempt;
    END LOOP;
END
$$;

-- One month, in chunks of 20,000 audit rows that fit into work_mem.
CREATE FUNCTION bc003_generator.fill_month(first_month date, month integer, users integer, audit_rows integer)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET session_replication_role = replica
SET work_mem = '64MB' AS $$
BEGIN
    INSERT INTO public.sessions
    SELECT * FROM bc003_generator.session_rows(first_month, month, users, greatest(1, audit_rows * 3 / 80));
    FOR chunk IN 0 .. audit_rows - 1 BY 20000 LOOP
        INSERT INTO public.audit_logs
        SELECT * FROM bc003_generator.audit_rows(
            first_month, month, users, audit_rows, chunk, least(chunk + 20000, audit_rows) - 1);
    END LOOP;
    INSERT INTO public.security_events
    SELECT * FROM bc003_generator.security_event_rows(first_month, month, users, audit_rows / 16);
    INSERT INTO public.login_attempts
    SELECT * FROM bc003_generator.login_attempt_rows(first_month, month, users, audit_rows / 10);
END
$$;
