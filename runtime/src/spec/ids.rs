//! `linux.uidMappings` and `gidMappings`: which IDs of the host stand behind those of the container.
//!
//! The sentry knows the container's only. The gofer lives in a user namespace with these mappings, so that the host's kernel translates the owners of
//! files, and keeps the container from those of all others.

use super::bad;
use crate::exit::Result;
use control::IdRange;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};

/// Lines that a map may have (user_namespaces(7)).
const MOST: usize = 340;

/// The ranges of users and of groups; both empty: IDs are what they are.
pub fn convert(spec: &Spec) -> Result<(Vec<IdRange>, Vec<IdRange>)> {
    let Some(linux) = spec.linux() else { return Ok(Default::default()) };
    let users = ranges(linux.uid_mappings().as_deref().unwrap_or_default(), "linux.uidMappings")?;
    let groups = ranges(linux.gid_mappings().as_deref().unwrap_or_default(), "linux.gidMappings")?;
    if users.is_empty() != groups.is_empty() {
        let missing = if users.is_empty() { "linux.uidMappings" } else { "linux.gidMappings" };
        return Err(bad(missing, "is missing, and the other is there: map both users and groups, or neither"));
    }
    let own = linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User);
    if !users.is_empty() && !own {
        return Err(bad("linux.uidMappings", "is there, but no namespace of type user in linux.namespaces"));
    }
    Ok((users, groups))
}

fn ranges(list: &[LinuxIdMapping], field: &str) -> Result<Vec<IdRange>> {
    let mut ranges: Vec<IdRange> = Vec::new();
    if list.len() > MOST {
        return Err(bad(field, format_args!("has more than {MOST} lines")));
    }
    for (i, mapping) in list.iter().enumerate() {
        let range = IdRange { inside: mapping.container_id(), outside: mapping.host_id(), size: mapping.size() };
        if range.size == 0 {
            return Err(bad(format_args!("{field}[{i}].size"), "is zero"));
        }
        let too_far = |first: u32| first.checked_add(range.size).is_none();
        if too_far(range.inside) || too_far(range.outside) {
            return Err(bad(format_args!("{field}[{i}].size"), "goes beyond the greatest ID"));
        }
        let overlap = |a: u32, b: u32, size: u32| a < b + size && b < a + range.size;
        let twice = |other: &&IdRange| overlap(range.inside, other.inside, other.size) || overlap(range.outside, other.outside, other.size);
        if ranges.iter().find(twice).is_some() {
            return Err(bad(format_args!("{field}[{i}]"), "maps IDs that another line maps already"));
        }
        ranges.push(range);
    }
    if !ranges.is_empty() && !ranges.iter().any(|range| range.inside == 0) {
        return Err(bad(field, "does not map the container's ID 0, which its files are served as"));
    }
    Ok(ranges)
}
