//! `caisson spec`: writes a `config.json` to start from.

use crate::exit::{Failure, Result, Status};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

/// Flags of `caisson spec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write it to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
}

/// Writes the file; one that exists is left alone.
pub fn main(args: &Args) -> Result {
    let path = args.bundle.join("config.json");
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(Status::ConfigExists, format!("{} exists already; remove it first", path.display())),
        ErrorKind::NotFound => Failure::new(Status::NoBundle, format!("the bundle directory {} does not exist", args.bundle.display())),
        _ => Failure::new(Status::Output, format!("cannot write {}: {error}", path.display())),
    })?;
    file.write_all(crate::spec::DEFAULT_CONFIG.as_bytes())
        .map_err(Failure::context(Status::Output, format_args!("cannot write {}", path.display())))?;
    Ok(0)
}
