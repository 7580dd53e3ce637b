//! gofer-protocol.
