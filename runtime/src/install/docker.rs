//! Docker's `daemon.json`: an entry of `runtimes`.

use super::{Edit, HANDLER};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value, json};

/// With the runtime. Its root is written to the host, which is what `docker cp`, `commit` and `build` look at.
pub fn with(text: &str, program: &str) -> Edit {
    let mut config = parse(text)?;
    let runtimes = config.entry("runtimes").or_insert_with(|| json!({}));
    let runtimes = runtimes.as_object_mut().ok_or("\"runtimes\" is not an object")?;
    let entry = json!({"path": program, "runtimeArgs": ["--overlay=none"]});
    if runtimes.get(HANDLER) == Some(&entry) {
        return Ok(text.to_owned());
    }
    runtimes.insert(HANDLER.into(), entry);
    print(&config, text)
}

/// Without it.
pub fn without(text: &str) -> Edit {
    let mut config = parse(text)?;
    let Some(runtimes) = config.get_mut("runtimes") else {
        return Ok(text.to_owned());
    };
    let runtimes = runtimes.as_object_mut().ok_or("\"runtimes\" is not an object")?;
    if runtimes.shift_remove(HANDLER).is_none() {
        return Ok(text.to_owned());
    }
    let none = runtimes.is_empty();
    if config.get("default-runtime").is_some_and(|name| name == HANDLER) {
        return Err("\"default-runtime\" is \"caisson\": Docker would not start without it; name another one first".into());
    }
    if none {
        config.shift_remove("runtimes");
    }
    print(&config, text)
}

/// The program of the entry that is there.
pub fn program(text: &str) -> Option<String> {
    parse(text).ok()?.get("runtimes")?.get(HANDLER)?.get("path")?.as_str().map(str::to_owned)
}

/// What is worth knowing about a configuration with the entry, on a host with systemd and control groups of version 2.
pub fn remark(text: &str) -> Option<String> {
    let options = parse(text).ok()?.get("exec-opts").cloned().unwrap_or_default();
    let by_file = options.as_array().is_some_and(|list| list.iter().any(|option| option == "native.cgroupdriver=cgroupfs"));
    (!by_file).then(|| {
        "Docker's cgroup driver is systemd here unless \"exec-opts\" has \"native.cgroupdriver=cgroupfs\", which caisson needs".into()
    })
}

fn parse(text: &str) -> Edit<Map<String, Value>> {
    // Docker takes an empty file for an empty object.
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("is not a JSON object".into()),
        Err(error) => Err(format!("is not JSON that can be read: {error}")),
    }
}

/// Indented as the file was.
fn print(config: &Map<String, Value>, like: &str) -> Edit {
    let blank = |line: &&str| line.starts_with([' ', '\t']);
    let indent = like.lines().find(blank).map_or("    ", |line| &line[..line.len() - line.trim_start().len()]);
    let mut bytes = Vec::new();
    let mut to = serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes()));
    config.serialize(&mut to).map_err(|error| error.to_string())?;
    if like.is_empty() || like.ends_with('\n') {
        bytes.push(b'\n');
    }
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_merged_and_taken_out() {
        let text = "{\n  \"log-driver\": \"journald\",\n  \"runtimes\": {\"kata\": {\"path\": \"/k\"}},\n  \"bip\": \"10.0.0.1/8\"\n}\n";
        let with = with(text, "/c").unwrap();
        let value: Value = serde_json::from_str(&with).unwrap();
        assert_eq!(value["runtimes"]["caisson"], json!({"path": "/c", "runtimeArgs": ["--overlay=none"]}));
        assert!(with.find("log-driver") < with.find("runtimes") && with.find("runtimes") < with.find("bip"), "{with}");
        assert_eq!(super::with(&with, "/c").unwrap(), with);
        let gone: Value = serde_json::from_str(&without(&with).unwrap()).unwrap();
        assert_eq!(gone, serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(without(text).unwrap(), text);
    }

    #[test]
    fn the_driver_is_asked_for() {
        assert!(remark("{\"exec-opts\": [\"native.cgroupdriver=systemd\"]}").is_some() && remark("{}").is_some());
        assert!(remark("{\"exec-opts\": [\"native.cgroupdriver=cgroupfs\"]}").is_none());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in ["{", "[]", "\"x\"", "{\"runtimes\": []}", "{} {}", "// no comments\n{}"] {
            assert!(with(bad, "/c").is_err(), "{bad}");
        }
        let default = with("{\"default-runtime\": \"caisson\"}", "/c").unwrap();
        assert!(without(&default).unwrap_err().contains("default-runtime"));
    }
}
