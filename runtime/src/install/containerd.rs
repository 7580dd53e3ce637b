//! containerd's `config.toml`: a runtime handler of the CRI plugin, in the shapes of versions 2 and 3. Comments and order stay.

use super::{Edit, HANDLER};
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

/// The type that makes containerd execute `containerd-shim-caisson-v1`.
const TYPE: &str = "io.containerd.caisson.v1";

/// With the handler. A file that is not there is made in version 2, which all containerds read that have a shim of version 2.
pub fn with(text: &str) -> Edit {
    let mut config = parse(text)?;
    if config.is_empty() {
        config["version"] = value(2);
    }
    let path = handlers(&config)?;
    let mut at: &mut dyn TableLike = config.as_table_mut();
    for name in path {
        let entry = at.entry(name).or_insert_with(|| {
            let mut table = Table::new();
            // Only a name on the way: it gets no line of its own.
            table.set_implicit(true);
            Item::Table(table)
        });
        at = entry.as_table_like_mut().ok_or_else(|| format!("{name:?} is not a table"))?;
    }
    let there = at.get(HANDLER).and_then(Item::as_table_like).and_then(|table| table.get("runtime_type")).and_then(Item::as_str);
    if there == Some(TYPE) {
        return Ok(text.to_owned());
    }
    let mut handler = Table::new();
    handler["runtime_type"] = value(TYPE);
    at.insert(HANDLER, Item::Table(handler));
    Ok(config.to_string())
}

/// Without it.
pub fn without(text: &str) -> Edit {
    let mut config = parse(text)?;
    if config.is_empty() {
        return Ok(text.to_owned());
    }
    let path = handlers(&config)?;
    if !take_out(config.as_table_mut(), &path)? {
        return Ok(text.to_owned());
    }
    let of_cri = path.get(..3).and_then(|path| path.iter().try_fold(config.as_item(), |item, name| item.get(name)));
    if of_cri.and_then(|cri| cri.get("default_runtime_name")).and_then(Item::as_str) == Some(HANDLER) {
        return Err("default_runtime_name is \"caisson\": pods would not start without it; name another one first".into());
    }
    Ok(config.to_string())
}

/// Takes the handler out of the table at `path` below `at`, and the tables on the way if they have become empty and have no line of
/// their own; whether it was there.
fn take_out(at: &mut dyn TableLike, path: &[&str]) -> Edit<bool> {
    let Some((name, rest)) = path.split_first() else {
        return Ok(at.remove(HANDLER).is_some());
    };
    let Some(item) = at.get_mut(name) else {
        return Ok(false);
    };
    let found = take_out(item.as_table_like_mut().ok_or_else(|| format!("{name:?} is not a table"))?, rest)?;
    if found && item.as_table().is_some_and(|table| table.is_implicit() && table.is_empty()) {
        at.remove(name);
    }
    Ok(found)
}

/// What is worth knowing about a configuration with the handler.
pub fn remark(text: &str) -> Option<String> {
    let config = parse(text).ok()?;
    let off = config.get("disabled_plugins")?.as_array()?;
    let cri = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
    let disabled = off.iter().filter_map(|name| name.as_str()).any(|name| cri.contains(&name));
    disabled.then(|| "the CRI plugin is disabled: Kubernetes cannot use this containerd, ctr can".into())
}

fn parse(text: &str) -> Edit<DocumentMut> {
    text.parse().map_err(|error: toml_edit::TomlError| {
        let place = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let place = place.map_or(String::new(), |line| format!(" (line {line})"));
        format!("is not TOML that can be read: {}{place}", error.message())
    })
}

/// The path of the table of handlers.
fn handlers(config: &DocumentMut) -> Edit<[&'static str; 4]> {
    let plugin = match config.get("version").map(Item::as_integer) {
        Some(Some(2)) => "io.containerd.grpc.v1.cri",
        Some(Some(3)) => "io.containerd.cri.v1.runtime",
        None | Some(Some(1)) => {
            let what =
                "is of version 1, which later versions of containerd do not read; `containerd config migrate` makes a newer one of it";
            return Err(what.into());
        }
        Some(Some(other)) => return Err(format!("is of version {other}, which is not known here")),
        Some(None) => return Err("version is not a number".into()),
    };
    Ok(["plugins", plugin, "containerd", "runtimes"])
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "# ours\nversion = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"] # the CRI\n    sandbox_image = \"p\"\n";
    const V3: &str =
        "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type = 'io.containerd.runc.v2'\n";

    #[test]
    fn both_shapes_and_back() {
        for (text, plugin) in [(V2, "io.containerd.grpc.v1.cri"), (V3, "io.containerd.cri.v1.runtime"), ("", "io.containerd.grpc.v1.cri")] {
            let with = with(text).unwrap();
            let config = parse(&with).unwrap();
            assert_eq!(config["plugins"][plugin]["containerd"]["runtimes"]["caisson"]["runtime_type"].as_str(), Some(TYPE));
            assert_eq!(super::with(&with).unwrap(), with);
            assert!(with.starts_with(text.trim_end()), "{with}");
            if !text.is_empty() {
                assert_eq!(without(&with).unwrap(), text);
            }
            assert_eq!(without(text).unwrap(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "version = ",
            "version = 2\nversion = 2",
            "version = 9",
            "version = \"2\"",
            "disabled_plugins = []",
            "version = 2\nplugins = 3",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
        let default = format!("{V3}[plugins.'io.containerd.cri.v1.runtime'.containerd]\ndefault_runtime_name = 'caisson'\n");
        assert!(without(&with(&default).unwrap()).unwrap_err().contains("default_runtime_name"));
        assert!(remark("version = 2\ndisabled_plugins = [\"cri\"]").is_some());
    }
}
