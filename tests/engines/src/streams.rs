//! Streams of the CRI: exec, attach and port-forward, as `kubectl` opens them by way of the kubelet: a WebSocket whose messages
//! begin with the number of a channel.

use crate::Cri;
use crate::cri::Pod;
use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::client::ClientRequestBuilder;
use tungstenite::{Message, WebSocket};

/// Channels of exec and attach.
pub const STDIN: u8 = 0;
/// Standard output, and all output of a terminal.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
const STATUS: u8 = 3;
const RESIZE: u8 = 4;

/// How long anything may take to arrive.
const LIMIT: Duration = Duration::from_secs(30);

/// An open stream.
pub struct Stream {
    socket: WebSocket<TcpStream>,
    received: BTreeMap<u8, Vec<u8>>,
    closed: bool,
}

impl Cri {
    /// `Exec`.
    pub fn stream_exec(&self, id: &str, command: &[&str], tty: bool) -> Result<Stream> {
        let cmd = command.iter().map(|&word| word.to_owned()).collect();
        let request = ExecRequest { container_id: id.into(), cmd, tty, stdin: true, stdout: true, stderr: !tty };
        let answer = self.ask("Exec", |mut client| async move { client.exec(request).await })?;
        self.open(&answer.url)
    }

    /// `Attach`.
    pub fn stream_attach(&self, id: &str, tty: bool) -> Result<Stream> {
        let request = AttachRequest { container_id: id.into(), tty, stdin: true, stdout: true, stderr: !tty };
        let answer = self.ask("Attach", |mut client| async move { client.attach(request).await })?;
        self.open(&answer.url)
    }

    /// `PortForward` to one port. Channel 0 carries data, channel 1 errors; both begin with the port's number.
    pub fn stream_port(&self, pod: &Pod, port: u16) -> Result<Stream> {
        let request = PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![port.into()] };
        let answer = self.ask("PortForward", |mut client| async move { client.port_forward(request).await })?;
        let mut stream = self.open(&format!("{}?port={port}", answer.url))?;
        for channel in [0, 1] {
            stream.until(channel, |bytes| bytes.len() >= 2).context("the port's number")?;
            let number: Vec<u8> = stream.received.entry(channel).or_default().drain(..2).collect();
            ensure!(number == port.to_le_bytes(), "{number:?}");
        }
        Ok(stream)
    }

    fn open(&self, url: &str) -> Result<Stream> {
        let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).with_context(|| url.to_owned())?;
        let port = authority.rsplit_once(':').with_context(|| url.to_owned())?.1.parse()?;
        let socket = self.machine.connect(port)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let uri = url.replacen("http://", "ws://", 1).parse().with_context(|| url.to_owned())?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("v4.channel.k8s.io");
        let (socket, _) = tungstenite::client::client(request, socket).map_err(|error| anyhow::anyhow!("{url}: {error}"))?;
        Ok(Stream { socket, received: BTreeMap::new(), closed: false })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", if self.closed { "closed" } else { "open" })?;
        for (channel, bytes) in &self.received {
            let text = String::from_utf8_lossy(bytes);
            let end: String = text.chars().skip(text.chars().count().saturating_sub(500)).collect();
            write!(f, ", on channel {channel} {} bytes: {end:?}", bytes.len())?;
        }
        Ok(())
    }
}

impl Stream {
    /// Sends bytes on a channel.
    pub fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<()> {
        let message = [&[channel], bytes].concat();
        Ok(self.socket.send(Message::binary(message))?)
    }

    /// Sets the terminal's size.
    pub fn resize(&mut self, width: u16, height: u16) -> Result<()> {
        self.send(RESIZE, json!({"Width": width, "Height": height}).to_string().as_bytes())
    }

    /// What has come on a channel so far.
    pub fn received(&self, channel: u8) -> &[u8] {
        self.received.get(&channel).map(Vec::as_slice).unwrap_or_default()
    }

    /// The same as text, without carriage returns.
    pub fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.received(channel)).replace('\r', "")
    }

    /// Receives one more message.
    fn receive(&mut self) -> Result<()> {
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => {
                if let Some((channel, bytes)) = bytes.split_first() {
                    self.received.entry(*channel).or_default().extend(bytes);
                }
            }
            Ok(Message::Close(_)) => self.closed = true,
            Ok(_) => {}
            // containerd closes the connection without a word once everything has been sent.
            Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed | tungstenite::Error::Protocol(_)) => {
                self.closed = true;
            }
            Err(error) => bail!("{error}; received so far: {self:?}"),
        }
        Ok(())
    }

    /// Receives until a channel has what is waited for.
    pub fn until(&mut self, channel: u8, enough: impl Fn(&[u8]) -> bool) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !enough(self.received(channel)) {
            ensure!(!self.closed, "closed; received so far: {self:?}");
            ensure!(Instant::now() < deadline, "too late; received so far: {self:?}");
            self.receive()?;
        }
        Ok(())
    }

    /// Receives until standard output (or the terminal) shows this text.
    pub fn shows(&mut self, text: &str) -> Result<()> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "").contains(text);
        self.until(STDOUT, shown).with_context(|| format!("{text:?} is not shown"))
    }

    /// Receives everything to the end: the exit status of what was executed.
    pub fn end(&mut self) -> Result<i64> {
        self.closes()?;
        let status: Value = serde_json::from_slice(self.received(STATUS)).with_context(|| format!("no status: {self:?}"))?;
        if status["status"] == "Success" {
            return Ok(0);
        }
        let causes = status["details"]["causes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let code = causes.iter().find(|cause| cause["reason"] == "ExitCode").and_then(|cause| cause["message"].as_str()?.parse().ok());
        code.with_context(|| status.to_string())
    }

    /// Receives everything to the end.
    pub fn closes(&mut self) -> Result<()> {
        while !self.closed {
            self.receive()?;
        }
        Ok(())
    }
}
