//! Tells containerd what happens, over its own ttrpc socket.
//!
//! A thread of its own sends events, in their order: containerd may be slow, or just be restarted. An event that cannot be
//! delivered for [`PATIENCE`] is given up: a containerd that starts anew asks for the state of its tasks anyhow.

use crate::error::{Error, Result};
use crate::log;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{MessageField, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::{Client, EventsClient};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long one event is tried.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The sending side.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    queue: Mutex<Option<Sender<ForwardRequest>>>,
    done: Mutex<Receiver<()>>,
}

impl Publisher {
    /// For events of this namespace, to the containerd whose ttrpc socket is at `address`.
    pub fn start(namespace: &str, address: String) -> Result<Publisher> {
        let (queue, events) = channel();
        let (finished, done) = channel();
        thread::Builder::new()
            .name("events".into())
            .spawn(move || {
                deliver(&address, &events);
                let _ = finished.send(());
            })
            .map_err(Error::context("cannot start a thread"))?;
        Ok(Publisher { namespace: namespace.into(), queue: Mutex::new(Some(queue)), done: Mutex::new(done) })
    }

    /// Queues an event.
    pub fn publish<M: MessageFull>(&self, topic: &str, event: &M) {
        let value = match event.write_to_bytes() {
            Ok(value) => value,
            Err(error) => return log::warn(format!("event {topic}: {error}")),
        };
        let envelope = Envelope {
            topic: topic.into(),
            namespace: self.namespace.clone(),
            timestamp: MessageField::some(now()),
            event: MessageField::some(Any { type_url: M::descriptor().full_name().to_owned(), value, ..Default::default() }),
            ..Default::default()
        };
        let request = ForwardRequest { envelope: MessageField::some(envelope), ..Default::default() };
        if let Some(queue) = &*self.queue.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread only ends after the queue has.
            let _ = queue.send(request);
        }
    }

    /// Waits until everything is delivered, for a moment at most. Nothing can be published any more.
    pub fn finish(&self, limit: Duration) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.done.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(limit);
    }
}

fn deliver(address: &str, events: &Receiver<ForwardRequest>) {
    let address = if address.contains("://") { address.to_owned() } else { format!("unix://{address}") };
    let mut client: Option<EventsClient> = None;
    for event in events {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(50);
        loop {
            let sent = match &client {
                Some(client) => forward(client, &event),
                None => Client::connect(&address).map_err(|error| error.to_string()).and_then(|new| {
                    let client = client.insert(EventsClient::new(new));
                    forward(client, &event)
                }),
            };
            let Err(error) = sent else { break };
            client = None;
            if Instant::now() > deadline {
                log::warn(format!("event {} is lost: {error}", event.envelope.topic));
                break;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(2));
        }
    }
}

fn forward(client: &EventsClient, event: &ForwardRequest) -> std::result::Result<(), String> {
    let limit = i64::try_from(ATTEMPT.as_nanos()).unwrap_or(i64::MAX);
    client.forward(ttrpc::context::with_timeout(limit), event).map(drop).map_err(|error| error.to_string())
}

/// The present time.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
        ..Default::default()
    }
}
