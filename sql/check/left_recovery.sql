-- Settings of a recovery that has ended and that every base backup of this server would carry on: a standby made from one
-- would end its recovery at the old target, or fetch only what that restore had planned.
-- Those that the files say otherwise by now, for the next start, are not among them.
-- Parameters: none. Result: name (text), of each. Privilege: none. Versions: 14-18.
SELECT name
FROM pg_catalog.pg_settings
WHERE NOT pg_catalog.pg_is_in_recovery()
    AND NOT pending_restart
    AND CASE name
        WHEN 'recovery_target_timeline' THEN setting NOT IN ('', 'latest', 'current')
        WHEN 'restore_command' THEN setting LIKE '% wal fetch %--through%'
        ELSE name IN ('recovery_target', 'recovery_target_lsn', 'recovery_target_name', 'recovery_target_time',
            'recovery_target_xid') AND setting <> ''
    END
ORDER BY name
