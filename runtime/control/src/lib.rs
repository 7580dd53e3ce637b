//! caisson-control.
