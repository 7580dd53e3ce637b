//! The shim's command line, in the manner of Go's flag package: `-name value`, `-name=value`, `--name…`, then one action.

use crate::error::{Error, Result};

/// What containerd calls a shim with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// containerd's namespace, not the kernel's.
    pub namespace: String,
    /// The container's ID.
    pub id: String,
    /// containerd's main socket.
    pub address: String,
    /// The socket to serve, in a started shim.
    pub socket: String,
    /// The bundle's directory, for `delete`; else it is the working directory.
    pub bundle: String,
    /// More log lines.
    pub debug: bool,
    /// Print the version alone.
    pub version: bool,
    /// `start`, `delete`, or empty: serve.
    pub action: String,
}

/// Parses it. Flags of newer versions of containerd are an error, as in containerd's own shim.
pub fn parse(words: &[String]) -> Result<Args> {
    let mut args = Args::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            args.action.clone_from(word);
            break;
        };
        let (name, given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        match name {
            "debug" => args.debug = given.as_deref() != Some("false"),
            "v" | "version" => args.version = true,
            _ => {
                let value = given.or_else(|| words.next().cloned()).ok_or_else(|| Error::invalid(format!("-{name} needs a value")))?;
                match name {
                    "namespace" => args.namespace = value,
                    "id" => args.id = value,
                    "address" => args.address = value,
                    "socket" => args.socket = value,
                    "bundle" => args.bundle = value,
                    // containerd's own binary, which older shims sent events through.
                    "publish-binary" => {}
                    _ => return Err(Error::invalid(format!("unknown flag -{name}"))),
                }
            }
        }
    }
    if !args.version {
        name("-namespace", &args.namespace)?;
        name("-id", &args.id)?;
    }
    Ok(args)
}

/// Names become parts of paths.
pub fn name(what: &str, name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(good) {
        return Err(Error::invalid(format!("{what}: {name:?} is no name")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn containerds_way_of_calling() {
        let args =
            parse(&words("-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id abc -debug --bundle=/b delete"))
                .expect("good");
        assert_eq!((args.namespace.as_str(), args.id.as_str(), args.action.as_str()), ("k8s.io", "abc", "delete"));
        assert_eq!((args.address.as_str(), args.bundle.as_str(), args.debug), ("/run/c.sock", "/b", true));
    }

    #[test]
    fn wrong_ones_are_errors() {
        for bad in
            ["", "-id x start", "-namespace n start", "-namespace n -id ../x start", "-namespace n -id x -what ever", "-namespace n -id"]
        {
            assert!(parse(&words(bad)).is_err(), "{bad}");
        }
        assert!(parse(&words("-v")).expect("good").version);
    }
}
