//! Messages over the control socket: one JSON document per packet.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest packet, in bytes. A longer one arrives truncated and is refused.
pub const MAX_MESSAGE: usize = 16 << 10;

/// The most descriptors that come with one request.
pub const MAX_DESCRIPTORS: usize = 64;

/// What is wrong with a message or a boot specification.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON that was expected.
    #[error("malformed message: {0}")]
    Json(#[from] serde_json::Error),
    /// Longer than [`MAX_MESSAGE`].
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// A value that no runtime sends.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// From the runtime to the sentry. Each is answered on the same connection: by [`Event::Done`] unless it says otherwise, or by
/// [`Event::Failed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Run the container's first process, which has been waiting since boot. Answered by [`Event::Started`].
    Start,
    /// Send this signal as if from outside the PID namespace.
    Signal {
        /// 1 to 64.
        sig: i32,
        /// To every process, not only to the first.
        all: bool,
    },
    /// From here on this connection is about the further container of this name; before, it is about the sandbox's first.
    Select {
        /// Its name.
        id: String,
    },
    /// Make a further container. With the request come a file that holds its [`JoinSpec`](crate::JoinSpec), the connection to its gofer,
    /// its standard streams (or, in their place, its terminal), and what else its first process finds open. Answered by
    /// [`Event::Created`], and at its end by [`Event::Exited`]. From here on the connection is about it, and it ends with the connection.
    Create,
    /// Wait until nothing is left of a container that has ended.
    Gone,
    /// Run a further process. With the request come a file that holds its [`ExecSpec`](crate::ExecSpec), its standard streams (or, in
    /// their place, its terminal), and what else it finds open. Answered by [`Event::Started`], and at its end by [`Event::Exited`]. The
    /// process ends with the connection.
    Exec,
    /// Send this signal to the process that was started over this connection, or else to the first. Not answered.
    SignalOwn {
        /// 1 to 64.
        sig: i32,
    },
    /// The terminal of that process has another size, which the host's terminal tells. Not answered.
    Resize,
    /// List the processes. Answered by one or more [`Event::Processes`].
    Processes,
    /// Stop every process where it is.
    Pause,
    /// Let them go on.
    Resume,
    /// What the container is doing. Answered by [`Event::Status`].
    Status,
    /// A connection to the sandbox has come, which is sent along; connect it to this port of the loopback. Answered by [`Event::Done`].
    Forward {
        /// The port.
        port: u16,
    },
    /// What has been used. Answered by [`Event::Usage`].
    Usage,
    /// Waits until the sentry has killed more processes than so many because the container had more memory than it may, or the container
    /// ends. Answered by [`Event::OutOfMemory`].
    OutOfMemory {
        /// How many are known of.
        seen: u64,
    },
    /// Waits until the application says that it is ready, or ends. Answered by [`Event::Ready`].
    Ready,
    /// These are the limits now; one that is not there is none. The host keeps them, the sentry tells them.
    Limits(crate::Limits),
}

/// From the sentry to the runtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// The container is ready: [`Request::Start`] runs it.
    Created,
    /// A process is about to execute its first instruction.
    Started {
        /// Its process ID inside.
        pid: i32,
    },
    /// The process has ended; the last message about it.
    Exited {
        /// What wait(2) would give: exit status in bits 8 to 15, or a signal in bits 0 to 6.
        wait_status: i32,
    },
    /// What was asked for is done.
    Done,
    /// What was asked for failed, the container could not be started, or the sentry cannot go on.
    Failed {
        /// What kind of failure it is.
        kind: FailureKind,
        /// One line for the user.
        message: String,
    },
    /// Some of the processes.
    Processes {
        /// In ascending order of their IDs.
        list: Vec<ProcessInfo>,
        /// Another such message follows.
        more: bool,
    },
    /// What the container is doing.
    Status {
        /// Its phase.
        phase: Phase,
    },
    /// The container had more memory than it may, or has ended.
    OutOfMemory {
        /// How many processes have been killed for it.
        kills: u64,
    },
    /// The application is ready, or has ended.
    Ready {
        /// As it said that it is ready: `READY=` and what follows on that line.
        line: Option<String>,
    },
    /// What has been used.
    Usage {
        /// Nanoseconds of processor time in the application, and in the sentry for it.
        cpu_ns: [u64; 2],
        /// Bytes of application memory in use.
        memory: u64,
        /// Processes and threads.
        tasks: u64,
    },
}

/// What a container that has been created is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It waits for [`Request::Start`].
    Created,
    /// Its first process runs.
    Running,
    /// [`Request::Pause`] holds it.
    Paused,
}

/// A line of ps(1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessInfo {
    /// Process ID inside.
    pub pid: i32,
    /// Its parent's; 0: it was started from outside.
    pub ppid: i32,
    /// Real user.
    pub uid: u32,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
    /// Nanoseconds since it began.
    pub age_ns: u64,
    /// Name, or the beginning of the command line.
    pub command: String,
}

/// Why a sentry gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The program does not exist (exit status 127).
    NotFound,
    /// The program exists and cannot be executed (exit status 126).
    NotExecutable,
    /// The configuration cannot be put into force, for example because `cwd` does not exist.
    Invalid,
    /// The host lacks what the platform needs.
    Host,
    /// The sentry itself failed.
    Internal,
}

/// The packet for `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE { Err(Error::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The message in one packet.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, Error> {
    if packet.len() > MAX_MESSAGE {
        return Err(Error::TooLong(packet.len()));
    }
    Ok(serde_json::from_slice(packet)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_round_trip() {
        for event in [
            Event::Created,
            Event::Started { pid: 7 },
            Event::Exited { wait_status: 0x300 },
            Event::Failed { kind: FailureKind::NotFound, message: "no /bin/x".into() },
        ] {
            assert_eq!(decode::<Event>(&encode(&event).unwrap()).unwrap(), event);
        }
        for request in [Request::Signal { sig: 15, all: true }, Request::Select { id: "a".into() }, Request::Create, Request::Gone] {
            assert_eq!(decode::<Request>(&encode(&request).unwrap()).unwrap(), request);
        }
    }

    #[test]
    fn any_bytes_are_an_error_and_no_panic() {
        let good = encode(&Request::Signal { sig: 9, all: false }).unwrap();
        for cut in 0..good.len() {
            assert!(decode::<Request>(&good[..cut]).is_err());
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for len in 0..512 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) as u8
                })
                .collect();
            assert!(decode::<Request>(&bytes).is_err());
            assert!(decode::<Event>(&bytes).is_err());
            assert!(crate::BootSpec::from_json(&bytes).is_err());
            assert!(crate::JoinSpec::from_json(&bytes).is_err());
        }
        assert!(decode::<Request>(&vec![b' '; MAX_MESSAGE + 1]).is_err());
        assert!(encode(&Event::Failed { kind: FailureKind::Internal, message: "x".repeat(MAX_MESSAGE) }).is_err());
    }
}
