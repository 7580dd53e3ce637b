//! `hooks`: checked before anything is made, so that none fails for a reason that was plain from the start.

use super::bad;
use crate::container::Moment;
use crate::exit::Result;
use oci_spec::runtime::Spec;

/// Checks all lists.
pub fn check(spec: &Spec) -> Result<()> {
    for moment in Moment::ALL {
        for (i, hook) in moment.of(spec).iter().enumerate() {
            let field = format!("hooks.{}[{i}]", moment.name());
            if !hook.path().is_absolute() {
                let what = format_args!("{} is not an absolute path", hook.path().display());
                return Err(bad(format_args!("{field}.path"), what));
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return Err(bad(format_args!("{field}.timeout"), "is not greater than zero"));
            }
            let zero = |list: &Option<Vec<String>>| list.iter().flatten().any(|text| text.contains('\0'));
            if zero(hook.args()) || zero(hook.env()) {
                return Err(bad(field, "args or env contain a zero byte"));
            }
        }
    }
    Ok(())
}
