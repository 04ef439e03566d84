-- Replication slots and how much WAL each keeps from being removed.
--
-- purpose     a slot whose consumer is gone fills the disk of pg_wal; one that lost its WAL is useless
-- parameters  none
-- columns     slot_name text, active bool, wal_status text (null for a slot never used), held_bytes int8,
--             limit_megabytes int8 (max_slot_wal_keep_size; -1 for none)
-- privilege   none
-- versions    PostgreSQL 14 to 18
SELECT s.slot_name::text AS slot_name,
       s.active,
       s.wal_status,
       coalesce(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
           s.restart_lsn), 0)::int8 AS held_bytes,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS limit_megabytes
  FROM pg_replication_slots s
 WHERE NOT s.temporary
 ORDER BY s.slot_name
