//! Black-box tests, in one binary.

mod manifest;

