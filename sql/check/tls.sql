-- By which version of TLS this session is connected; null without.
-- Parameters: none. Result: version (text). Privilege: none. Versions: 14-18.
SELECT CASE WHEN ssl THEN version END FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()
