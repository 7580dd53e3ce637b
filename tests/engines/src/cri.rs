//! containerd's CRI plugin in a machine, as a kubelet drives it: by gRPC.

use crate::image::{self, Config};
use crate::{Machine, eventually};
use anyhow::{Context, Result, bail, ensure};
use caisson_tests_support::host;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, ContainerStatsRequest, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, ImageSpec, LinuxContainerConfig, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, Mount, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    PodSandboxStatusRequest, RemoveContainerRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest,
    StopContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// The name of the image that holds a pod.
const PAUSE: &str = "localhost/pause:latest";
/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A running containerd with its CRI plugin.
pub struct Cri {
    /// Where it runs.
    pub machine: Machine,
    handler: &'static str,
    tokio: tokio::runtime::Runtime,
    client: Client,
}

/// What requests are sent with.
pub type Client = RuntimeServiceClient<Channel>;

/// A pod.
pub struct Pod {
    /// Its ID.
    pub id: String,
    /// What it was made from.
    pub config: PodSandboxConfig,
}

impl Cri {
    /// Starts it in a machine of its own. Pods get this runtime handler.
    pub fn start(handler: &'static str) -> Result<Cri> {
        let machine = Machine::new(&["containerd", "ctr", "runc", "iptables"])?;
        ensure!(Path::new("/usr/lib/cni/bridge").exists(), "containernetworking-plugins is not installed; ./test installs it");
        let network = machine.path("cni-conf");
        fs::create_dir_all(&network)?;
        fs::write(network.join("10-bridge.conflist"), BRIDGE)?;
        let plugin = "plugins.\"io.containerd.grpc.v1.cri\"";
        let config = format!(
            "version = 2\nroot = {:?}\nstate = \"/run/containerd\"\noom_score = 0\n\
             [grpc]\naddress = \"/run/containerd/containerd.sock\"\n\
             [{plugin}]\nsandbox_image = {PAUSE:?}\nrestrict_oom_score_adj = true\ndisable_apparmor = true\n\
             [{plugin}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {network:?}\n\
             [{plugin}.containerd]\nsnapshotter = \"overlayfs\"\n\
             [{plugin}.containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
            machine.path("containerd")
        );
        let file = machine.path("containerd.toml");
        fs::write(&file, config)?;
        let bin = machine.path("bin").display().to_string();
        machine.ok(&["caisson", "install", "--containerd", "--config", &file.display().to_string(), "--bin-dir", &bin])?;
        // It ends with the machine.
        drop(machine.daemon("containerd", &["containerd", "--config", &file.display().to_string()])?);
        let socket = machine.inside("/run/containerd/containerd.sock");
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connect = || {
            let socket = socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(socket).await?)) }
            });
            let endpoint = Endpoint::from_static("http://containerd").timeout(LIMIT);
            tokio.block_on(async {
                let channel = endpoint.connect_with_connector(connector).await.ok()?;
                let mut client = RuntimeServiceClient::new(channel);
                client.version(VersionRequest::default()).await.ok()?;
                Some(client)
            })
        };
        let Some(client) = eventually(60, connect) else {
            bail!("containerd does not start on this host:\n{}", machine.log("containerd.log"));
        };
        let busybox = image::busybox(&machine.path(""))?;
        machine.ok(&["ctr", "-n", "k8s.io", "image", "import", &busybox.display().to_string()])?;
        let pause = Config { name: PAUSE, command: vec!["sleep", "1000000"], entrypoint: Vec::new(), user: "", directory: "/" };
        let pause = image::archive(&machine.path(""), &machine.path("busybox-root"), &pause)?;
        machine.ok(&["ctr", "-n", "k8s.io", "image", "import", &pause.display().to_string()])?;
        Ok(Cri { machine, handler, tokio, client })
    }

    /// Kills containerd without a word, and starts it again. What runs goes on running.
    pub fn restart(&self) -> Result<()> {
        let file = self.machine.path("containerd.toml").display().to_string();
        let daemons = || self.machine.processes(&format!("containerd --config {file}"));
        for pid in daemons() {
            host::kill(pid, "KILL")?;
        }
        ensure!(eventually(30, || daemons().is_empty().then_some(())).is_some(), "containerd does not end");
        drop(self.machine.daemon("containerd", &["containerd", "--config", &file])?);
        let answers = || {
            let mut client = self.client.clone();
            self.tokio.block_on(async { client.version(VersionRequest::default()).await.ok() })
        };
        ensure!(eventually(60, answers).is_some(), "containerd does not start again:\n{}", self.machine.log("containerd.log"));
        Ok(())
    }

    /// The sentries that live, by their IDs on the host.
    pub fn sentries(&self) -> Vec<i32> {
        self.machine.all_processes("caisson sentry ")
    }

    /// Carries out a request.
    pub fn ask<T, F>(&self, what: &str, request: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
    {
        let answer = self.tokio.block_on(request(self.client.clone()));
        let answer = answer.map_err(|status| anyhow::anyhow!("{what}: {}\n{}", status.message(), self.machine.log("containerd.log")));
        Ok(answer?.into_inner())
    }

    /// `RunPodSandbox`. Its containers see each other's processes if `shared`.
    pub fn run_pod(&self, name: &str, shared: bool) -> Result<Pod> {
        // 0: the pod's, 1: the container's.
        self.run_pod_with(name, |config| namespaces(config).pid = i32::from(!shared))
    }

    /// The same, with this change of what a plain pod is made from.
    pub fn run_pod_with(&self, name: &str, change: impl FnOnce(&mut PodSandboxConfig)) -> Result<Pod> {
        let mut config = self.pod_config(name)?;
        change(&mut config);
        self.run(config)
    }

    /// What a plain pod is made from.
    pub fn pod_config(&self, name: &str) -> Result<PodSandboxConfig> {
        let logs = self.machine.path(&format!("logs-{name}"));
        fs::create_dir_all(&logs)?;
        let own_processes = NamespaceOption { pid: 1, ..Default::default() };
        let security = LinuxSandboxSecurityContext { namespace_options: Some(own_processes), ..Default::default() };
        Ok(PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 }),
            hostname: format!("{name}-host"),
            log_directory: logs.display().to_string(),
            linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        })
    }

    /// `RunPodSandbox` for each of these, all at once.
    pub fn together(&self, count: usize, config: impl Fn(usize) -> Result<PodSandboxConfig>) -> Result<Vec<Pod>> {
        let configs = (0..count).map(config).collect::<Result<Vec<_>>>()?;
        let requests = configs.into_iter().map(|config| {
            let mut client = self.client.clone();
            let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: self.handler.into() };
            self.tokio.spawn(async move { (config, client.run_pod_sandbox(request).await) })
        });
        let requests: Vec<_> = requests.collect();
        let mut pods = Vec::new();
        for request in requests {
            let (config, answer) = self.tokio.block_on(request)?;
            pods.push(Pod { id: answer?.into_inner().pod_sandbox_id, config });
        }
        Ok(pods)
    }

    /// `StartContainer` for all at once.
    pub fn start_together(&self, ids: &[String]) -> Result<()> {
        let requests = ids.iter().map(|id| {
            let (mut client, request) = (self.client.clone(), StartContainerRequest { container_id: id.clone() });
            self.tokio.spawn(async move { client.start_container(request).await })
        });
        let requests: Vec<_> = requests.collect();
        requests.into_iter().try_for_each(|request| self.tokio.block_on(request)?.map(drop).map_err(Into::into))
    }

    /// `StopPodSandbox` and `RemovePodSandbox` for all at once.
    pub fn remove_together(&self, pods: &[Pod]) -> Result<()> {
        let requests = pods.iter().map(|pod| {
            let (mut client, id) = (self.client.clone(), pod.id.clone());
            self.tokio.spawn(async move {
                client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
                client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await
            })
        });
        let requests: Vec<_> = requests.collect();
        requests.into_iter().try_for_each(|request| self.tokio.block_on(request)?.map(drop).map_err(Into::into))
    }

    /// `RunPodSandbox`.
    fn run(&self, config: PodSandboxConfig) -> Result<Pod> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: self.handler.into() };
        let answer = self.ask("RunPodSandbox", |mut client| async move { client.run_pod_sandbox(request).await })?;
        Ok(Pod { id: answer.pod_sandbox_id, config })
    }

    /// The pod's address.
    pub fn address(&self, pod: &Pod) -> Result<String> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        let answer = self.ask("PodSandboxStatus", |mut client| async move { client.pod_sandbox_status(request).await })?;
        Ok(answer.status.and_then(|status| status.network).map(|network| network.ip).unwrap_or_default())
    }

    /// `CreateContainer` and `StartContainer`: its ID. `mounts` are host directories and where they are seen. Its log is the file
    /// `NAME.log` of the pod's log directory.
    pub fn run_container(&self, pod: &Pod, name: &str, attempt: u32, command: &[&str], mounts: &[(&Path, &str)]) -> Result<String> {
        self.run_with(pod, name, command, |config| {
            config.metadata.get_or_insert_default().attempt = attempt;
            let mounts = mounts.iter().map(|(host, container)| Mount {
                host_path: host.display().to_string(),
                container_path: (*container).to_owned(),
                ..Default::default()
            });
            config.mounts.extend(mounts);
        })
    }

    /// The same, with this change of what a plain container is made from.
    pub fn run_with(&self, pod: &Pod, name: &str, command: &[&str], change: impl FnOnce(&mut ContainerConfig)) -> Result<String> {
        let id = self.create_with(pod, name, command, change)?;
        self.start_container(&id)?;
        Ok(id)
    }

    /// `CreateContainer` alone.
    pub fn create_with(&self, pod: &Pod, name: &str, command: &[&str], change: impl FnOnce(&mut ContainerConfig)) -> Result<String> {
        let of_pod = pod.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
        let security = LinuxContainerSecurityContext { namespace_options: of_pod, ..Default::default() };
        let mut config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(ImageSpec { image: image::BUSYBOX.into(), ..Default::default() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        };
        change(&mut config);
        let request =
            CreateContainerRequest { pod_sandbox_id: pod.id.clone(), config: Some(config), sandbox_config: Some(pod.config.clone()) };
        Ok(self.ask("CreateContainer", |mut client| async move { client.create_container(request).await })?.container_id)
    }

    /// `StartContainer`.
    pub fn start_container(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest { container_id: id.into() };
        self.ask("StartContainer", |mut client| async move { client.start_container(request).await }).map(drop)
    }

    /// The lines of a container's log, without time and stream.
    pub fn log(&self, pod: &Pod, name: &str) -> Vec<String> {
        let text = fs::read_to_string(Path::new(&pod.config.log_directory).join(format!("{name}.log"))).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(str::to_owned).collect()
    }

    /// `ExecSync`.
    pub fn exec(&self, id: &str, command: &[&str]) -> Result<ExecSyncResponse> {
        self.exec_for(id, command, 30)
    }

    /// `ExecSync` with a time limit in seconds.
    pub fn exec_for(&self, id: &str, command: &[&str], timeout: i64) -> Result<ExecSyncResponse> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        self.ask("ExecSync", |mut client| async move { client.exec_sync(request).await })
    }

    /// `ExecSync`, which must succeed: what it prints.
    pub fn exec_ok(&self, id: &str, command: &[&str]) -> Result<String> {
        let answer = self.exec(id, command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(answer.exit_code == 0, "{command:?}: {} {}", answer.exit_code, text(&answer.stderr));
        Ok(text(&answer.stdout))
    }

    /// `ContainerStatus`.
    pub fn status(&self, id: &str) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.ask("ContainerStatus", |mut client| async move { client.container_status(request).await })?;
        answer.status.context("no status")
    }

    /// Waits for a container's end: its exit status.
    pub fn exited(&self, id: &str) -> Result<i32> {
        let ended = || self.status(id).ok().filter(|status| status.state == ContainerState::ContainerExited as i32);
        Ok(eventually(30, ended).with_context(|| format!("it does not end: {:?}", self.status(id)))?.exit_code)
    }

    /// Waits until a container's log has this line.
    pub fn logged(&self, pod: &Pod, name: &str, line: &str) -> Result<()> {
        let found = || self.log(pod, name).iter().any(|logged| logged == line).then_some(());
        eventually(30, found).with_context(|| format!("{line:?} is not in the log of {name}: {:?}", self.log(pod, name)))
    }

    /// Memory in use in bytes, and processor time in nanoseconds.
    pub fn usage(&self, id: &str) -> Result<(u64, u64)> {
        let request = ContainerStatsRequest { container_id: id.into() };
        let answer = self.ask("ContainerStats", |mut client| async move { client.container_stats(request).await })?;
        let stats = answer.stats.context("no statistics")?;
        let memory = stats.memory.and_then(|memory| memory.working_set_bytes).map_or(0, |value| value.value);
        let cpu = stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |value| value.value);
        Ok((memory, cpu))
    }

    /// `StopContainer`.
    pub fn stop(&self, id: &str, grace: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        self.ask("StopContainer", |mut client| async move { client.stop_container(request).await }).map(drop)
    }

    /// `StopContainer`, which goes on while other requests are made: see [`Cri::done`].
    pub fn begin_stop(&self, id: &str, grace: i64) -> JoinHandle<Result<()>> {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        let mut client = self.client.clone();
        self.tokio.spawn(async move { Ok(client.stop_container(request).await.map(drop)?) })
    }

    /// Waits for the end of what is under way.
    pub fn done<T>(&self, begun: JoinHandle<T>) -> Result<T> {
        Ok(self.tokio.block_on(begun)?)
    }

    /// `RemoveContainer`.
    pub fn remove(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.into() };
        self.ask("RemoveContainer", |mut client| async move { client.remove_container(request).await }).map(drop)
    }

    /// `StopPodSandbox`.
    pub fn stop_pod(&self, pod: &Pod) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.ask("StopPodSandbox", |mut client| async move { client.stop_pod_sandbox(request).await }).map(drop)
    }

    /// `RemovePodSandbox`.
    pub fn remove_pod(&self, pod: &Pod) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() };
        self.ask("RemovePodSandbox", |mut client| async move { client.remove_pod_sandbox(request).await }).map(drop)
    }
}

/// The pod's namespaces, to be changed.
pub fn namespaces(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

/// The container's security context, to be changed.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A bridge with addresses of its own.
const BRIDGE: &str = r#"{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}"#;
