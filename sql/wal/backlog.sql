-- How many files wait to be archived.
--
-- purpose     the backlog of the archiver, also where the data directory cannot be read
-- parameters  none
-- columns     waiting int8
-- privilege   pg_monitor
-- versions    PostgreSQL 14 to 18
SELECT count(*) AS waiting FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'
