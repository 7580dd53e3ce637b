//! Interfaces of containers whose stand-in was killed. It takes addresses and routes off the interfaces of the container's network namespace when
//! the container is made, and gives them back at its end; when it cannot any more, whoever deletes the container does, or makes the next one in that
//! namespace.

use super::pod::{NamespaceId, namespace_id};
use super::{Container, Record};
use crate::exit::{Failure, Result, Status};
use crate::sandbox::{self, Kept};
use oci_spec::runtime::LinuxNamespaceType;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What the interfaces had, in a container's directory for as long as they do not have it.
const FILE: &str = "network.json";

impl Container {
    /// Writes down what will be taken. To be called before anything is.
    pub fn keep_network(&self, kept: &Kept) -> Result<()> {
        self.write(FILE, &serde_json::to_vec(kept).map_err(Failure::internal("cannot encode the interfaces"))?)
    }

    /// It has been given back.
    pub fn forget_network(&self) {
        // The container may be gone with it.
        let _ = std::fs::remove_file(self.dir.join(FILE));
    }

    /// Gives back what a stand-in that has ended did not. The caller has the lock, or it is the container's last moment.
    pub fn give_network_back(&self) -> Result<()> {
        let bytes = match std::fs::read(self.dir.join(FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::context(Status::State, FILE)(error)),
        };
        if self.stand_in_lives() {
            return Ok(());
        }
        if let (Ok(kept), Some(path)) = (serde_json::from_slice::<Kept>(&bytes), self.network_path()) {
            // In a thread of its own: it moves to that namespace.
            std::thread::scope(|scope| scope.spawn(|| give_back(&path, &kept)).join())
                .map_err(|_| Failure::new(Status::Internal, "the interfaces cannot be given back"))?
                .map_err(Failure::context(Status::Host, "the network namespace"))?;
        }
        self.forget_network();
        Ok(())
    }

    /// The file of the container's network namespace, if that is still the same one.
    fn network_path(&self) -> Option<PathBuf> {
        let spec = self.spec().ok()?;
        let namespaces = spec.linux().as_ref()?.namespaces().as_ref()?;
        let network = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network)?;
        let path = network.path().clone()?;
        (self.record.network.is_some() && namespace_id(&path) == self.record.network).then_some(path)
    }
}

fn give_back(path: &Path, kept: &Kept) -> std::io::Result<()> {
    sandbox::enter_namespace(&File::open(path)?, libc::CLONE_NEWNET)?;
    kept.give_back();
    Ok(())
}

/// Has containers that are dead give back the interfaces of a namespace, before another one takes them.
pub fn give_back_of_the_dead(root: &Path, record: &Record) -> Result<()> {
    let Some(network) = record.network else { return Ok(()) };
    let in_it = |other: &Container| other.record.id != record.id && other.record.network == Some::<NamespaceId>(network);
    for mut other in Container::list(root)?.into_iter().filter(in_it) {
        if other.stand_in_lives() || !other.dir.join(FILE).exists() {
            continue;
        }
        // One that is being deleted meanwhile gives back by itself.
        match other.lock() {
            Ok(()) => other.give_network_back()?,
            Err(failure) if failure.status == Status::NoContainer => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
