//! `state.json`: the state object of the OCI runtime specification.

use crate::spec::OCI_VERSION;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifecycle {
    /// The sandbox is being made.
    Creating,
    /// The application runs.
    Running,
}

/// The state object.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    oci_version: String,
    id: String,
    /// Where it is in its life.
    pub status: Lifecycle,
    /// The sentry's process ID on the host; 0 before there is one.
    pub pid: i32,
    bundle: PathBuf,
    created: String,
}

impl State {
    /// The state of a container that is about to be made.
    pub fn new(id: &str, bundle: &Path) -> State {
        State {
            oci_version: OCI_VERSION.into(),
            id: id.into(),
            status: Lifecycle::Creating,
            pid: 0,
            bundle: bundle.to_owned(),
            created: control::logging::timestamp(),
        }
    }
}
