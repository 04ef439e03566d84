//! The integration tests: one binary, real PostgreSQL clusters in temporary directories, real S3 servers.
//!
//! `stage` starts servers and holds test data; every other module tests one thing and reads as sentences.

mod stage;

mod architecture;
