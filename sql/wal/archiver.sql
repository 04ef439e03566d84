-- How archiving is set up and how the archiver is doing.
--
-- purpose     archiving that has stopped silently is found here
-- parameters  none
-- columns     archive_mode, archive_command, archive_library (empty before 15), wal_level text, archive_timeout int4 (seconds),
--             segment_size int8, last_archived_wal text, last_archived timestamptz, failed_count int8,
--             last_failed_wal text, last_failed, now timestamptz, in_recovery bool
-- privilege   none; a role without pg_read_all_settings sees the same
-- versions    PostgreSQL 14 to 18
SELECT current_setting('archive_mode') AS archive_mode,
       current_setting('archive_command') AS archive_command,
       coalesce(current_setting('archive_library', true), '') AS archive_library,
       current_setting('wal_level') AS wal_level,
       (SELECT setting::int4 FROM pg_settings WHERE name = 'archive_timeout') AS archive_timeout,
       pg_size_bytes(current_setting('wal_segment_size')) AS segment_size,
       a.last_archived_wal,
       a.last_archived_time AS last_archived,
       a.failed_count,
       a.last_failed_wal,
       a.last_failed_time AS last_failed,
       clock_timestamp() AS now,
       pg_is_in_recovery() AS in_recovery
  FROM pg_stat_archiver a
