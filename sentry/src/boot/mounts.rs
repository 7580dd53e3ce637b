//! The tree of mounts: the root, what the specification mounts, devices, hidden and read-only paths.

use super::notify::Notify;
use super::refused;
use crate::{Failure, terminal::Terminal};
use abi::fs::{FileType, makedev};
use abi::{Errno, Result};
use control::{BootSpec, Device, Mount as Wanted, MountFlags as Flags, MountKind, NOTIFY_SOCKET, Overlay};
use fs::overlay::Layers;
use fs::remote::{self, RemoteSource, Sharing};
use gofer_protocol::{Channel, Client};
use kernel::{
    Container,
    cred::Credentials,
    vfs::{Lookup, Mount, MountFlags, MountNamespace, MountSource, PathRef, SetAttr, SuperBlock, Walker},
};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Connections to the gofer at most: as many requests are under way at a time.
const CONNECTIONS: usize = 16;

/// An option of tmpfs that runc has, and Linux has not.
const COPY_UP: &str = "tmpcopyup";

/// Makes the tree.
pub fn build(
    container: &Arc<Container>,
    spec: &BootSpec,
    gofer: OwnedFd,
    terminal: Option<&Terminal>,
) -> Result<Arc<MountNamespace>, Failure> {
    let gofer = Arc::new(Client::new(Channel::from(gofer), CONNECTIONS));
    let builder = Builder { container, gofer, cred: Arc::new(Credentials::root()) };
    let root = builder.host_tree(0, spec.root.overlay).map_err(refused("root.path"))?;
    let root = Mount::of(&root, MountFlags::RELATIME).map_err(refused("root.path"))?;
    let namespace = MountNamespace::new(root.clone());
    for wanted in &spec.mounts {
        let options = if wanted.data.is_empty() { String::new() } else { format!(" with the options {}", wanted.data.join(",")) };
        let what = format!("mounts: {}{options}", wanted.destination);
        builder.mount(&namespace, wanted, terminal).map_err(refused(what))?;
    }
    // As runc does: a program may rely on it that its directory is there.
    builder.place(&namespace, &spec.process.cwd, true).map_err(refused(format_args!("process.cwd: {}", spec.process.cwd)))?;
    if spec.notify {
        builder.notify(&namespace).map_err(refused(NOTIFY_SOCKET))?;
    }
    for device in &spec.devices {
        builder.device(&namespace, device).map_err(refused(format_args!("linux.devices: {}", device.path)))?;
    }
    for path in &spec.masked_paths {
        builder.mask(&namespace, path).map_err(refused(format_args!("linux.maskedPaths: {path}")))?;
    }
    for path in &spec.readonly_paths {
        builder.protect(&namespace, path).map_err(refused(format_args!("linux.readonlyPaths: {path}")))?;
    }
    if spec.root.readonly {
        // Only now: the mount points had to be made.
        root.set_flags(root.flags() | MountFlags::RDONLY).map_err(refused("root.readonly"))?;
    }
    Ok(namespace)
}

struct Builder<'a> {
    container: &'a Arc<Container>,
    gofer: Arc<Client>,
    cred: Arc<Credentials>,
}

impl Builder<'_> {
    /// A file system of this type.
    fn file_system(&self, kind: &str, options: &str, extra: Option<Box<dyn Any + Send>>) -> Result<Arc<SuperBlock>> {
        let source = MountSource { source: kind, options, extra };
        let sb = self.container.kernel().vfs.fs_type(kind)?.mount(self.container, &self.cred, source)?;
        self.container.add_file_system(&sb);
        Ok(sb)
    }

    /// A tree of the gofer's, with an upper layer in memory if asked for.
    fn host_tree(&self, attach: u32, overlay: Overlay) -> Result<Arc<SuperBlock>> {
        // Under an upper layer the host's files are taken as they are: an image, which nobody changes.
        let sharing = if overlay == Overlay::Memory { Sharing::Exclusive } else { Sharing::Shared };
        let source = RemoteSource { client: self.gofer.clone(), attach, sharing };
        let lower = self.file_system(remote::FS_NAME, "", Some(Box::new(source)))?;
        match overlay {
            Overlay::None => Ok(lower),
            Overlay::Memory => {
                let lowers = vec![Mount::of(&lower, MountFlags::RDONLY)?];
                self.file_system("overlay", "", Some(Box::new(Layers { lowers, size: None })))
            }
        }
    }

    /// Who makes mount points.
    fn walker(&self, namespace: &MountNamespace) -> Result<Walker<'static>> {
        Ok(Walker { root: namespace.root()?, cred: self.cred.clone(), umask: 0, task: None })
    }

    fn mount(&self, namespace: &MountNamespace, wanted: &Wanted, terminal: Option<&Terminal>) -> Result {
        let options = wanted.data.join(",");
        let sb = match wanted.kind {
            MountKind::Tmpfs if wanted.data.iter().any(|option| option == COPY_UP) => self.copied_up(namespace, wanted)?,
            MountKind::Bind { attach, overlay, .. } => self.host_tree(attach, overlay)?,
            MountKind::Proc => self.file_system("proc", &options, None)?,
            MountKind::Sysfs => self.file_system("sysfs", &options, None)?,
            MountKind::Tmpfs | MountKind::Dev => self.file_system("tmpfs", &options, None)?,
            MountKind::Devpts => self.file_system("devpts", &options, None)?,
            MountKind::Mqueue => self.file_system("mqueue", "", None)?,
            MountKind::Cgroup => self.file_system("cgroup2", "", None)?,
        };
        let directory = !matches!(wanted.kind, MountKind::Bind { directory: false, .. });
        let place = self.place(namespace, &wanted.destination, directory)?;
        let mount = Mount::of(&sb, flags(wanted.flags))?;
        if wanted.kind == MountKind::Dev {
            // A writable moment, before anyone sees it.
            mount.set_flags(flags(Flags { readonly: false, ..wanted.flags }))?;
            namespace.attach(mount.clone(), &place)?;
            self.devices(namespace, &wanted.destination, terminal)?;
            return mount.set_flags(flags(wanted.flags));
        }
        namespace.attach(mount, &place)
    }

    /// A tmpfs that begins with what is in the directory below it: runc copies that, here it is a layer that is never written.
    fn copied_up(&self, namespace: &MountNamespace, wanted: &Wanted) -> Result<Arc<SuperBlock>> {
        let own: Vec<&str> = wanted.data.iter().map(String::as_str).filter(|option| *option != COPY_UP).collect();
        let options = own.join(",");
        let Some(below) = self.existing(namespace, &wanted.destination)? else { return self.file_system("tmpfs", &options, None) };
        let lower = Mount::bind(&below);
        lower.set_flags(lower.flags() | MountFlags::RDONLY)?;
        let parsed = fs::tmpfs::Options::parse(&options)?;
        let layers = Layers { lowers: vec![lower], size: parsed.size };
        let sb = self.file_system("overlay", "", Some(Box::new(layers)))?;
        let has = |name: &str| own.iter().any(|option| option.starts_with(name));
        let change = SetAttr {
            perm: has("mode=").then_some(parsed.mode),
            uid: has("uid=").then_some(parsed.uid),
            gid: has("gid=").then_some(parsed.gid),
            ..SetAttr::default()
        };
        if change != SetAttr::default() {
            let root = sb.root()?;
            root.ops.set_attr(&root, &change)?;
        }
        Ok(sb)
    }

    /// The place to mount at; what is missing of it is made, as runc does.
    fn place(&self, namespace: &MountNamespace, path: &str, directory: bool) -> Result<PathRef> {
        let walker = self.walker(namespace)?;
        let mut at = walker.root.clone();
        let names: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        for (i, name) in names.iter().enumerate() {
            at = match walker.walk(&at, name, Lookup::FOLLOW) {
                Err(error) if error.is(Errno::ENOENT) => {
                    if directory || i + 1 < names.len() {
                        walker.mkdir(&at, name, 0o755)?
                    } else {
                        walker.mknod(&at, name, FileType::Regular, 0o644, 0)?
                    }
                }
                other => other?,
            };
        }
        Ok(at)
    }

    /// The socket at which the application says that it is ready, in a directory of its own in which nothing can be changed.
    fn notify(&self, namespace: &MountNamespace) -> Result {
        let Some((dir, name)) = NOTIFY_SOCKET.rsplit_once('/') else { return Err(Errno::EINVAL.into()) };
        let mount = Mount::of(&self.file_system("tmpfs", "mode=755", None)?, flags(Flags::default()))?;
        namespace.attach(mount.clone(), &self.place(namespace, dir, true)?)?;
        // Whatever user the application runs as.
        let at = self.walker(namespace)?.mknod(&self.place(namespace, dir, true)?, name.as_bytes(), FileType::Socket, 0o777, 0)?;
        let sock = net::unix::receive_at(self.container.kernel(), &at.inode);
        self.container.attachments.get_or_insert_with(|| Notify::new(sock));
        mount.set_flags(flags(Flags { readonly: true, nosuid: true, nodev: true, noexec: true, ..Flags::default() }))
    }

    /// The devices and links that every container has.
    fn devices(&self, namespace: &MountNamespace, dir: &str, terminal: Option<&Terminal>) -> Result {
        let walker = self.walker(namespace)?;
        let at = walker.walk(&walker.root, dir.as_bytes(), Lookup::DIRECTORY)?;
        for (name, major, minor, perm) in fs::dev::NODES {
            walker.mknod(&at, name.as_bytes(), FileType::CharDevice, *perm, makedev(*major, *minor))?;
        }
        for (name, target) in fs::dev::LINKS {
            walker.symlink(target.as_bytes(), &at, name.as_bytes())?;
        }
        for name in ["pts", "shm", "mqueue"] {
            walker.mkdir(&at, name.as_bytes(), 0o755)?;
        }
        if let Some(terminal) = terminal {
            self.container.attachments.get_or_insert_with(|| fs::dev::Console(terminal.tty.index));
            walker.mknod(&at, b"console", FileType::CharDevice, 0o620, makedev(5, 1))?;
        }
        Ok(())
    }

    /// A device of the configuration, in the place of whatever is there. Which devices do anything is the sentry's affair.
    fn device(&self, namespace: &MountNamespace, device: &Device) -> Result {
        let walker = self.walker(namespace)?;
        let path = device.path.as_bytes();
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return Err(Errno::EINVAL.into()) };
        let (dir, name) = (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default());
        let dir = self.place(namespace, &String::from_utf8_lossy(dir), true)?;
        let kind = FileType::from_mode(device.mode).ok_or(Errno::EINVAL)?;
        match walker.mknod(&dir, name, kind, device.mode & 0o7777, makedev(device.major, device.minor)) {
            // One of those that every container has.
            Err(error) if error.is(Errno::EEXIST) => {}
            other => drop(other?),
        }
        let at = walker.walk(&dir, name, Lookup::NOFOLLOW)?;
        let change = SetAttr { uid: Some(device.uid), gid: Some(device.gid), ..SetAttr::default() };
        at.inode.ops.set_attr(&at.inode, &change)
    }

    /// Hides a path: a file behind `/dev/null`, a directory behind an empty one. One that does not exist needs no hiding.
    fn mask(&self, namespace: &MountNamespace, path: &str) -> Result {
        let Some(at) = self.existing(namespace, path)? else { return Ok(()) };
        if at.inode.is_dir() {
            let empty = self.file_system("tmpfs", "size=0", None)?;
            return namespace.attach(Mount::of(&empty, MountFlags::RDONLY | MountFlags::RELATIME)?, &at);
        }
        match self.existing(namespace, "/dev/null")? {
            Some(null) => namespace.attach(Mount::bind(&null), &at),
            None => Err(Errno::ENODEV.into()),
        }
    }

    /// Makes a path read-only. One that does not exist needs no protection.
    fn protect(&self, namespace: &MountNamespace, path: &str) -> Result {
        let Some(at) = self.existing(namespace, path)? else { return Ok(()) };
        let mount = Mount::bind(&at);
        mount.set_flags(mount.flags() | MountFlags::RDONLY)?;
        namespace.attach(mount, &at)
    }

    fn existing(&self, namespace: &MountNamespace, path: &str) -> Result<Option<PathRef>> {
        let walker = self.walker(namespace)?;
        match walker.walk(&walker.root, path.as_bytes(), Lookup::FOLLOW) {
            Ok(at) => Ok(Some(at)),
            Err(error) if error.is(Errno::ENOENT) || error.is(Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn flags(wanted: Flags) -> MountFlags {
    let mut flags = if wanted.noatime { MountFlags::NOATIME } else { MountFlags::RELATIME };
    flags.set(MountFlags::RDONLY, wanted.readonly);
    flags.set(MountFlags::NOSUID, wanted.nosuid);
    flags.set(MountFlags::NODEV, wanted.nodev);
    flags.set(MountFlags::NOEXEC, wanted.noexec);
    flags
}
