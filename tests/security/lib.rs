//! Nothing of its own: this package is its test program, `tests/confinement.rs`.
