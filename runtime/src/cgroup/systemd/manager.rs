//! systemd's manager, over D-Bus: the few calls that a scope needs (org.freedesktop.systemd1(5)).
//!
//! The connection lives on one thread, in a runtime that is gone when it is dropped: the process that calls this goes on to make
//! namespaces and to fork, and must have no further threads.

use super::Property;
use crate::exit::{Failure, Result, Status};
use std::future::{Future, poll_fn};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::timeout;
use zbus::OwnedObjectPath;
use zbus::export::futures_core::Stream;
use zbus::message::Type;
use zbus::{Connection, Message, MessageStream, connection::Builder};

/// How long systemd may take for an answer, and for a job.
const PATIENCE: Duration = Duration::from_secs(30);
/// The system's bus (systemd's own socket names a sender that the crate takes for none).
const SOCKET: &str = "/run/dbus/system_bus_socket";
const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// A connection to it.
pub struct Manager {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
    signals: MessageStream,
}

/// How a call fails.
enum Refusal {
    /// By an error of this name.
    Named(String, String),
    /// Otherwise.
    Other(String),
}

impl Refusal {
    fn is(&self, name: &str) -> bool {
        matches!(self, Refusal::Named(n, _) if n.strip_prefix(NAME).is_some_and(|rest| rest.strip_prefix('.') == Some(name)))
    }

    fn into_failure(self, what: &str) -> Failure {
        let why = match self {
            Refusal::Named(name, text) => format!("{text} ({name})"),
            Refusal::Other(text) => text,
        };
        Failure::new(Status::Cgroup, format!("systemd: {what}: {why}"))
    }
}

impl From<zbus::Error> for Refusal {
    fn from(error: zbus::Error) -> Refusal {
        match error {
            zbus::Error::MethodError(name, text, _) => Refusal::Named(name.to_string(), text.unwrap_or_default()),
            other => Refusal::Other(other.to_string()),
        }
    }
}

impl Manager {
    /// Connects to the system's manager.
    pub fn connect() -> Result<Manager> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(Failure::internal("an event loop"))?;
        match runtime.block_on(in_time(open())) {
            Ok((connection, signals)) => Ok(Manager { runtime, connection, signals }),
            Err(why) => Err(why.into_failure(&format!("cannot be reached over the system's bus, {SOCKET}"))),
        }
    }

    /// Starts a transient unit. One of this name that has failed is forgotten first.
    pub fn start(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let auxiliary: Vec<(&str, Vec<Property>)> = Vec::new();
        let body = (unit, "replace", properties, auxiliary);
        let started = match self.job("StartTransientUnit", &body) {
            Err(refusal) if refusal.is("UnitExists") => {
                self.forget(unit)?;
                self.job("StartTransientUnit", &body)
            }
            other => other,
        };
        let failed = |why: Refusal| why.into_failure(&format!("cannot start {unit}"));
        match started.map_err(failed)?.as_str() {
            "done" => Ok(()),
            result => Err(failed(Refusal::Other(format!("the job's result is {result}")))),
        }
    }

    /// Stops a scope and forgets it; one that is not there, or is in another slice and thus somebody else's, is no error.
    pub fn stop(&mut self, unit: &str, slice: &str) -> Result<()> {
        if self.slice_of(unit).map_err(|why| why.into_failure(&format!("cannot look for {unit}")))?.as_deref() != Some(slice) {
            return Ok(());
        }
        match self.job("StopUnit", &(unit, "replace")) {
            Ok(result) if result != "done" => tracing::warn!("systemd: stopping {unit} ended with {result}"),
            Err(refusal) if !refusal.is("NoSuchUnit") => return Err(refusal.into_failure(&format!("cannot stop {unit}"))),
            _ => {}
        }
        self.forget(unit)
    }

    /// Forgets that a unit has failed.
    fn forget(&mut self, unit: &str) -> Result<()> {
        match self.call("ResetFailedUnit", &(unit,)) {
            Err(refusal) if !refusal.is("NoSuchUnit") => Err(refusal.into_failure(&format!("cannot reset {unit}"))),
            _ => Ok(()),
        }
    }

    /// Changes a unit until it ends.
    pub fn set(&mut self, unit: &str, properties: &[Property]) -> Result<()> {
        let changed = self.call("SetUnitProperties", &(unit, true, properties));
        changed.map(drop).map_err(|why| why.into_failure(&format!("cannot change {unit}")))
    }

    /// The slice that a scope is in, if there is such a scope.
    fn slice_of(&mut self, unit: &str) -> std::result::Result<Option<String>, Refusal> {
        let path: OwnedObjectPath = match self.call("GetUnit", &(unit,)) {
            Ok(answer) => answer.body().deserialize().map_err(zbus::Error::from)?,
            Err(refusal) if refusal.is("NoSuchUnit") => return Ok(None),
            Err(refusal) => return Err(refusal),
        };
        let Manager { runtime, connection, .. } = self;
        let asked = connection.call_method(Some(NAME), &path, Some(PROPERTIES), "Get", &(SCOPE, "Slice"));
        let answer = runtime.block_on(in_time(async { Ok(asked.await?) }))?;
        let body = answer.body();
        let value: zbus::Variant<'_> = body.deserialize().map_err(zbus::Error::from)?;
        Ok(String::try_from(value).ok())
    }

    fn call<B: serde::Serialize + zbus::DynamicType>(&mut self, method: &str, body: &B) -> std::result::Result<Message, Refusal> {
        self.runtime.block_on(in_time(async { Ok(call(&self.connection, method, body).await?) }))
    }

    /// Calls a method that answers with a job, and waits for the job's end: its result.
    fn job<B: serde::Serialize + zbus::DynamicType>(&mut self, method: &str, body: &B) -> std::result::Result<String, Refusal> {
        let Manager { runtime, connection, signals } = self;
        runtime.block_on(in_time(async {
            let answer = call(connection, method, body).await?;
            let job: OwnedObjectPath = answer.body().deserialize().map_err(zbus::Error::from)?;
            loop {
                let next = poll_fn(|context| Pin::new(&mut *signals).poll_next(context)).await;
                let signal = next.ok_or_else(|| Refusal::Other("the connection was closed".into()))??;
                if let Some(result) = result_of(&signal, &job) {
                    return Ok(result);
                }
            }
        }))
    }
}

async fn in_time<T>(doing: impl Future<Output = std::result::Result<T, Refusal>>) -> std::result::Result<T, Refusal> {
    timeout(PATIENCE, doing).await.unwrap_or_else(|_| Err(Refusal::Other(format!("no answer within {PATIENCE:?}"))))
}

async fn open() -> std::result::Result<(Connection, MessageStream), Refusal> {
    let stream = UnixStream::connect(SOCKET).map_err(|error| Refusal::Other(error.to_string()))?;
    let connection = Builder::unix_stream(stream).build().await?;
    // Whoever asked for a job is told of its end if it listens.
    let rule = "type='signal',path='/org/freedesktop/systemd1',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
    let signals = MessageStream::for_match_rule(rule, &connection, None).await?;
    Ok((connection, signals))
}

async fn call<B: serde::Serialize + zbus::DynamicType>(connection: &Connection, method: &str, body: &B) -> zbus::Result<Message> {
    connection.call_method(Some(NAME), PATH, Some(MANAGER), method, body).await
}

/// What a signal says of a job: how it ended.
fn result_of(signal: &Message, job: &OwnedObjectPath) -> Option<String> {
    if signal.message_type() != Type::Signal || signal.header().member()?.as_str() != "JobRemoved" {
        return None;
    }
    let body = signal.body();
    let (_, path, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize().ok()?;
    (path == *job).then_some(result)
}
