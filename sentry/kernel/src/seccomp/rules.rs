//! The filter of a container's profile: a list of rules by call.

use super::{Data, ERRNO, Filter};
use std::collections::BTreeMap;

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Greater.
    Gt,
    /// Equal to `other` in the bits of `value`.
    MaskedEq,
}

/// A condition on one argument.
#[derive(Clone, Copy, Debug)]
pub struct Condition {
    /// Which argument, from 0.
    pub index: usize,
    /// How it is compared.
    pub op: Op,
    /// With what.
    pub value: u64,
    /// For [`Op::MaskedEq`].
    pub other: u64,
}

impl Condition {
    fn holds(&self, data: &Data) -> bool {
        let Some(&arg) = data.args.get(self.index) else { return false };
        match self.op {
            Op::Ne => arg != self.value,
            Op::Lt => arg < self.value,
            Op::Le => arg <= self.value,
            Op::Eq => arg == self.value,
            Op::Ge => arg >= self.value,
            Op::Gt => arg > self.value,
            Op::MaskedEq => arg & self.value == self.other,
        }
    }
}

/// What is done about a call if all conditions hold.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `SECCOMP_RET_*` with a value.
    pub action: u32,
    /// None: always.
    pub conditions: Vec<Condition>,
}

/// A profile. The first rule of a call that applies decides.
#[derive(Clone, Debug)]
pub struct Rules {
    default: u32,
    calls: BTreeMap<i32, Vec<Rule>>,
}

impl Rules {
    /// With no rules: everything is answered by `default`.
    #[must_use]
    pub fn new(default: u32) -> Rules {
        Rules { default, calls: BTreeMap::new() }
    }

    /// Adds a rule for a call.
    pub fn add(&mut self, nr: i32, rule: Rule) {
        self.calls.entry(nr).or_default().push(rule);
    }

    /// Calls that are newer than every one the profile names do not exist, instead of failing in a way that programs do not expect.
    fn is_unknown(&self, nr: i32) -> bool {
        self.default & super::ACTION == ERRNO && self.calls.last_key_value().is_some_and(|(last, _)| nr > *last)
    }
}

impl Filter for Rules {
    fn decide(&self, data: &Data) -> u32 {
        if let Some(rules) = self.calls.get(&data.nr)
            && let Some(rule) = rules.iter().find(|rule| rule.conditions.iter().all(|condition| condition.holds(data)))
        {
            return rule.action;
        }
        if self.is_unknown(data.nr) { ERRNO | abi::Errno::ENOSYS.raw().unsigned_abs() } else { self.default }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ALLOW;
    use super::*;

    #[test]
    fn every_comparison() {
        let holds =
            |op, value, other, arg| Condition { index: 1, op, value, other }.holds(&Data { nr: 0, ip: 0, args: [9, arg, 9, 9, 9, 9] });
        assert!(holds(Op::Ne, 5, 0, 6) && !holds(Op::Ne, 5, 0, 5));
        assert!(holds(Op::Lt, 5, 0, 4) && !holds(Op::Lt, 5, 0, 5));
        assert!(holds(Op::Le, 5, 0, 5) && !holds(Op::Le, 5, 0, 6));
        assert!(holds(Op::Eq, u64::MAX, 0, u64::MAX) && !holds(Op::Eq, 5, 0, 5 | 1 << 32));
        assert!(holds(Op::Ge, 5, 0, 5) && !holds(Op::Ge, 5, 0, 4));
        assert!(holds(Op::Gt, 5, 0, 6) && !holds(Op::Gt, 5, 0, 5));
        assert!(holds(Op::MaskedEq, 0xf0, 0x20, 0x2f) && !holds(Op::MaskedEq, 0xf0, 0x20, 0x3f));
    }

    #[test]
    fn rules_before_the_default() {
        let mut rules = Rules::new(ERRNO | 1);
        let condition = Condition { index: 0, op: Op::Eq, value: 7, other: 0 };
        rules.add(10, Rule { action: ALLOW, conditions: vec![condition] });
        let call = |nr, first| rules.decide(&Data { nr, ip: 0, args: [first, 0, 0, 0, 0, 0] });
        assert_eq!((call(10, 7), call(10, 8), call(9, 7)), (ALLOW, ERRNO | 1, ERRNO | 1));
        assert_eq!(call(11, 7), ERRNO | 38);
    }
}
