//! The `Task` service: one method for each of containerd's requests.

use crate::container::{self, Container};
use crate::error::{Error, Result};
use crate::events::Publisher;
use crate::oci::Oci;
use crate::oom::{KillsOf, Watch};
use crate::options::Options;
use crate::process::{Exit, Phase, Process};
use crate::reaper::Reaper;
use crate::stdio::Paths;
use crate::{args, log, mount, stats};
use containerd_shim_protos::events::task::{
    TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused, TaskResumed, TaskStart,
};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageField};
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim::shim::{
    CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse, DeleteRequest,
    DeleteResponse, ExecProcessRequest, KillRequest, PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest,
    ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, UpdateTaskRequest, WaitRequest,
    WaitResponse,
};
use containerd_shim_protos::types::empty::Empty;
use containerd_shim_protos::types::task::ProcessInfo;
use containerd_shim_protos::{Task, topics};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use ttrpc::TtrpcContext;

/// The service, and all containers of this shim.
#[derive(Debug)]
pub struct Service {
    namespace: String,
    reaper: Arc<Reaper>,
    publisher: Arc<Publisher>,
    kills_of: KillsOf,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    shutdown: Mutex<bool>,
    down: Condvar,
}

type Answer<T> = ttrpc::Result<T>;

impl Service {
    /// Without containers.
    pub fn new(namespace: &str, reaper: Arc<Reaper>, publisher: Arc<Publisher>, kills_of: KillsOf) -> Service {
        Service {
            namespace: namespace.into(),
            reaper,
            publisher,
            kills_of,
            containers: Mutex::default(),
            shutdown: Mutex::new(false),
            down: Condvar::new(),
        }
    }

    /// Waits for a `Shutdown` request that finds no container.
    pub fn wait_shutdown(&self) {
        let mut down = self.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
        while !*down {
            down = self.down.wait(down).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn containers(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let found = self.containers().get(id).cloned();
        found.ok_or_else(|| Error::not_found(format!("there is no container {id}")))
    }

    /// Waits for the end of a process in a thread of its own, and tells of it; `oom` is that of a container's first.
    fn watch(&self, container: &Arc<Container>, process: &Arc<Process>, oom: Option<Watch>) {
        self.reaper.adopt(process.pid());
        let (container, process) = (container.clone(), process.clone());
        let (reaper, publisher) = (self.reaper.clone(), self.publisher.clone());
        let started = thread::Builder::new().name("wait".into()).stack_size(256 << 10).spawn(move || {
            let exit = Exit::now(reaper.wait(process.pid()));
            if process.exec_id.is_empty() {
                container.kill_rest();
            }
            // That it ended for want of memory is told before that it ended: engines look for the reason then.
            if let Some(oom) = oom {
                oom.finish();
            }
            // A process that ends at once has been started before, for containerd, too.
            let _starting = process.starting.lock().unwrap_or_else(PoisonError::into_inner);
            let event = TaskExit {
                container_id: container.id.clone(),
                id: if process.exec_id.is_empty() { container.id.clone() } else { process.exec_id.clone() },
                pid: process.wire_pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.clone()),
                ..Default::default()
            };
            process.set_phase(Phase::Stopped(exit));
            publisher.publish(topics::TASK_EXIT_EVENT_TOPIC, &event);
        });
        if let Err(error) = started {
            log::warn(format!("cannot start a thread: {error}"));
        }
    }

    fn create(&self, request: &CreateTaskRequest) -> Result<u32> {
        args::name("id", &request.id)?;
        if !request.checkpoint.is_empty() {
            return Err(unsupported("restoring from a checkpoint"));
        }
        if self.containers().contains_key(&request.id) {
            return Err(Error::new(ttrpc::Code::ALREADY_EXISTS, format!("container {} exists already", request.id)));
        }
        let bundle = Path::new(&request.bundle);
        let options = Options::from_any(request.options.as_ref())?;
        options.save(bundle)?;
        let paths = Paths {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let rootfs = bundle.join("rootfs");
        mount::all(&request.rootfs, &rootfs)?;
        let oci = Oci::new(self.reaper.clone(), &options, &self.namespace, bundle);
        let init = Process::new("", paths, Vec::new());
        let container = Arc::new(Container::new(&request.id, bundle, oci, init, (options.io_uid, options.io_gid)));
        if let Err(error) = container.create() {
            mount::undo(&rootfs);
            return Err(error);
        }
        let pid = container.init.wire_pid();
        self.containers().insert(request.id.clone(), container.clone());
        let io = TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: MessageField::some(io),
            pid,
            ..Default::default()
        };
        self.publisher.publish(topics::TASK_CREATE_EVENT_TOPIC, &event);
        let (publisher, id) = (self.publisher.clone(), request.id.clone());
        let oom = Watch::start(container.init.pid(), container.kills(self.kills_of), move || {
            let event = TaskOOM { container_id: id.clone(), ..Default::default() };
            publisher.publish(topics::TASK_OOM_EVENT_TOPIC, &event);
        });
        self.watch(&container, &container.init, Some(oom));
        Ok(pid)
    }

    fn start(&self, request: &StartRequest) -> Result<u32> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let _starting = process.starting.lock().unwrap_or_else(PoisonError::into_inner);
        container.start(&process)?;
        let pid = process.wire_pid();
        let container_id = request.id.clone();
        if request.exec_id.is_empty() {
            let event = TaskStart { container_id, pid, ..Default::default() };
            self.publisher.publish(topics::TASK_START_EVENT_TOPIC, &event);
        } else {
            let event = TaskExecStarted { container_id, exec_id: request.exec_id.clone(), pid, ..Default::default() };
            self.publisher.publish(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &event);
            self.watch(&container, &process, None);
        }
        Ok(pid)
    }

    fn delete(&self, request: &DeleteRequest) -> Result<DeleteResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let phase = process.phase();
        let exit = match phase {
            Phase::Stopped(exit) => exit,
            Phase::Added => Exit::now(0),
            Phase::Created => Exit::now(0),
            Phase::Running | Phase::Paused => return Err(Error::precondition("the process is still running")),
        };
        process.io().finish();
        if request.exec_id.is_empty() {
            container.delete()?;
            self.containers().remove(&request.id);
            let event = TaskDelete {
                container_id: request.id.clone(),
                pid: process.wire_pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.clone()),
                ..Default::default()
            };
            self.publisher.publish(topics::TASK_DELETE_EVENT_TOPIC, &event);
        } else {
            container.remove(&request.exec_id);
        }
        Ok(DeleteResponse {
            pid: process.wire_pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at),
            ..Default::default()
        })
    }

    fn exec(&self, request: ExecProcessRequest) -> Result<()> {
        args::name("exec_id", &request.exec_id)?;
        let container = self.container(&request.id)?;
        container.init.alive()?;
        let spec = request.spec.into_option().map(|any| any.value).unwrap_or_default();
        let paths = Paths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        container.add(Process::new(&request.exec_id, paths, spec))?;
        let event = TaskExecAdded { container_id: request.id, exec_id: request.exec_id, ..Default::default() };
        self.publisher.publish(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &event);
        Ok(())
    }

    fn kill(&self, request: &KillRequest) -> Result<()> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        if request.exec_id.is_empty() {
            process.alive()?;
            container.kill(request.signal, request.all)
        } else {
            container::signal(&process, request.signal)
        }
    }

    fn state(&self, request: &StateRequest) -> Result<StateResponse> {
        let container = self.container(&request.id)?;
        let process = container.process(&request.exec_id)?;
        let exit = match process.phase() {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        };
        Ok(StateResponse {
            id: request.id.clone(),
            bundle: container.bundle.display().to_string(),
            pid: process.wire_pid(),
            status: EnumOrUnknown::new(process.status()),
            stdin: process.paths.stdin.clone(),
            stdout: process.paths.stdout.clone(),
            stderr: process.paths.stderr.clone(),
            terminal: process.paths.terminal,
            exit_status: exit.as_ref().map_or(0, |exit| exit.status),
            exited_at: exit.map_or_else(MessageField::none, |exit| MessageField::some(exit.at)),
            exec_id: request.exec_id.clone(),
            ..Default::default()
        })
    }

    fn pids(&self, request: &PidsRequest) -> Result<PidsResponse> {
        let container = self.container(&request.id)?;
        let execs: HashMap<u32, String> = container.exec_pids().into_iter().collect();
        let info = |pid: u32| -> Result<ProcessInfo> {
            let info = match execs.get(&pid) {
                None => None,
                Some(exec_id) => {
                    let details = ProcessDetails { exec_id: exec_id.clone(), ..Default::default() };
                    let value = details.write_to_bytes().map_err(Error::context("pids"))?;
                    Some(Any { type_url: "containerd.runc.v1.ProcessDetails".into(), value, ..Default::default() })
                }
            };
            Ok(ProcessInfo { pid, info: info.into(), ..Default::default() })
        };
        let processes = container.pids()?.into_iter().map(info).collect::<Result<_>>()?;
        Ok(PidsResponse { processes, ..Default::default() })
    }

    fn pause(&self, id: &str) -> Result<()> {
        self.container(id)?.pause()?;
        let event = TaskPaused { container_id: id.into(), ..Default::default() };
        self.publisher.publish(topics::TASK_PAUSED_EVENT_TOPIC, &event);
        Ok(())
    }

    fn resume(&self, id: &str) -> Result<()> {
        self.container(id)?.resume()?;
        let event = TaskResumed { container_id: id.into(), ..Default::default() };
        self.publisher.publish(topics::TASK_RESUMED_EVENT_TOPIC, &event);
        Ok(())
    }

    fn resize(&self, request: &ResizePtyRequest) -> Result<()> {
        let process = self.container(&request.id)?.process(&request.exec_id)?;
        let io = process.io();
        match &io.console {
            Some(console) => console.resize(request.width, request.height),
            // Of a process that is not started yet: clients send the size early.
            None if process.phase() == Phase::Added => Ok(()),
            None => Err(Error::precondition("the process has no terminal")),
        }
    }

    fn connect(&self, id: &str) -> Result<ConnectResponse> {
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: self.container(id)?.init.wire_pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    fn shutdown(&self, request: &ShutdownRequest) {
        // The other containers of a pod still need us.
        if !self.containers().is_empty() && !request.now {
            return;
        }
        *self.shutdown.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.down.notify_all();
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ttrpc::Code::UNIMPLEMENTED, format!("{what} is not supported"))
}

impl Task for Service {
    fn state(&self, _: &TtrpcContext, request: StateRequest) -> Answer<StateResponse> {
        Ok(self.state(&request)?)
    }

    fn create(&self, _: &TtrpcContext, request: CreateTaskRequest) -> Answer<CreateTaskResponse> {
        log::debug(format!("create {}", request.id));
        Ok(CreateTaskResponse { pid: self.create(&request)?, ..Default::default() })
    }

    fn start(&self, _: &TtrpcContext, request: StartRequest) -> Answer<StartResponse> {
        Ok(StartResponse { pid: self.start(&request)?, ..Default::default() })
    }

    fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Answer<DeleteResponse> {
        log::debug(format!("delete {} {}", request.id, request.exec_id));
        Ok(self.delete(&request)?)
    }

    fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Answer<PidsResponse> {
        Ok(self.pids(&request)?)
    }

    fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Answer<Empty> {
        self.pause(&request.id)?;
        Ok(Empty::new())
    }

    fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Answer<Empty> {
        self.resume(&request.id)?;
        Ok(Empty::new())
    }

    fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Answer<Empty> {
        Err(unsupported("checkpointing").into())
    }

    fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Answer<Empty> {
        self.kill(&request)?;
        Ok(Empty::new())
    }

    fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Answer<Empty> {
        self.exec(request)?;
        Ok(Empty::new())
    }

    fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Answer<Empty> {
        self.resize(&request)?;
        Ok(Empty::new())
    }

    fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Answer<Empty> {
        if request.stdin {
            self.container(&request.id)?.process(&request.exec_id)?.io().close_stdin();
        }
        Ok(Empty::new())
    }

    fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Answer<Empty> {
        let resources = request.resources.into_option().map(|any| any.value).unwrap_or_default();
        self.container(&request.id)?.update(&resources)?;
        Ok(Empty::new())
    }

    fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Answer<WaitResponse> {
        let exit = self.container(&request.id)?.process(&request.exec_id)?.wait();
        Ok(WaitResponse { exit_status: exit.status, exited_at: MessageField::some(exit.at), ..Default::default() })
    }

    fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Answer<StatsResponse> {
        let stats = stats::convert(&self.container(&request.id)?.stats()?)?;
        Ok(StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Answer<ConnectResponse> {
        Ok(self.connect(&request.id)?)
    }

    fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> Answer<Empty> {
        self.shutdown(&request);
        Ok(Empty::new())
    }
}
