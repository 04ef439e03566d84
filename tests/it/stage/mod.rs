//! What the tests stand on: real servers on temporary directories, and data.
