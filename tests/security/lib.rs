//! Nothing of its own: this package is its test programs, `tests/`, and the hostile application that one of them runs.
