-- Demo data: takes the generator away again; the rows stay.
--
-- privilege   owner of schema bc003_generator
-- versions    PostgreSQL 14 to 18

DROP SCHEMA bc003_generator CASCADE;
