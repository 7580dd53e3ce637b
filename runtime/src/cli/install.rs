//! `caisson install` and `uninstall`: the entry of a runtime in the configuration of Docker or containerd.

use crate::exit::{Failure, Result, Status};
use crate::install::{Engine, Plan};
use std::path::{Path, PathBuf};

/// Flags of both.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For Docker: /etc/docker/daemon.json
    #[arg(long)]
    docker: bool,
    /// For containerd and Kubernetes: /etc/containerd/config.toml, and the shim's name beside other programs
    #[arg(long)]
    containerd: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The engine's configuration, if it is not where it usually is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where containerd looks for shims [default: /usr/local/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
    /// A directory that stands for /
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Args {
    fn plans(&self) -> Result<Vec<Plan>> {
        let root = super::create::absolute(Some(&self.root))?.unwrap_or_else(|| "/".into());
        let asked = [(Engine::Docker, self.docker), (Engine::Containerd, self.containerd)];
        let named: Vec<Engine> = asked.iter().filter(|(_, asked)| *asked).map(|(engine, _)| *engine).collect();
        let engines = match named.as_slice() {
            [] => asked.iter().map(|(engine, _)| *engine).filter(|engine| engine.is_there(&root)).collect(),
            _ => named,
        };
        if engines.is_empty() {
            return Err(Failure::new(Status::Usage, "neither Docker nor containerd seems to be there; name one: --docker or --containerd"));
        }
        if self.config.is_some() && engines.len() != 1 {
            return Err(Failure::new(Status::Usage, "--config: say whose configuration it is: --docker or --containerd"));
        }
        let path = |path: &Option<PathBuf>| super::create::absolute(path.as_deref().map(Path::new));
        let (config, bin_dir) = (path(&self.config)?, path(&self.bin_dir)?);
        let plan = |engine| Plan { engine, config: config.clone(), bin_dir: bin_dir.clone(), root: root.clone(), dry_run: self.dry_run };
        Ok(engines.into_iter().map(plan).collect())
    }
}

/// Carries out `install`, or with `undo` `uninstall`.
pub fn main(args: &Args, undo: bool) -> Result {
    for plan in args.plans()? {
        let done = if undo { plan.uninstall() } else { plan.install() }?;
        super::print(&done.join("\n"))?;
    }
    Ok(0)
}
