//! Filters of calls as applications write them: the programs of [`crate::bpf`] that seccomp(2) admits.

use super::{ARCH, Data, Filter};
use crate::{
    bpf::{Input, Instruction, Program, op},
    mm::Mm,
    user::UserAddr,
};
use abi::{Result, bail};

/// Bytes of `struct seccomp_data`.
const DATA_LEN: u32 = 64;

/// A program that looks at calls.
#[derive(Debug)]
pub struct CallFilter(Program);

impl CallFilter {
    /// The program of a `struct sock_fprog`. `EINVAL` if Linux would not take it.
    pub fn read(mm: &Mm, at: UserAddr) -> Result<CallFilter> {
        Self::new(Program::read(mm, at)?)
    }

    /// Checks that a program does nothing that only packets have (`seccomp_check_filter`).
    fn new(program: Program) -> Result<CallFilter> {
        let admitted = |i: &Instruction| match i.code {
            op::LD_W_ABS => i.k < DATA_LEN && i.k % 4 == 0,
            op::LD_H_ABS | op::LD_B_ABS | op::LD_W_IND | op::LD_H_IND | op::LD_B_IND | op::LDX_B_MSH => false,
            code => code & op::CLASS != op::ALU || code & op::OPERATION != op::MOD,
        };
        match program.instructions().iter().find(|i| !admitted(i)) {
            Some(i) => bail!(EINVAL, "not for calls: {i:x?}"),
            None => Ok(CallFilter(program)),
        }
    }
}

impl Input for Data {
    fn len(&self) -> u32 {
        DATA_LEN
    }

    fn load(&self, offset: u32, _size: u32) -> Option<u32> {
        let half = |value: u64| if offset % 8 == 0 { value as u32 } else { (value >> 32) as u32 };
        Some(match offset {
            0 => self.nr.cast_unsigned(),
            4 => ARCH,
            8 | 12 => half(self.ip),
            _ => half(*self.args.get((offset as usize).checked_sub(16)? / 8)?),
        })
    }
}

impl Filter for CallFilter {
    fn decide(&self, data: &Data) -> u32 {
        self.0.run(data)
    }

    fn instructions(&self) -> usize {
        self.0.instructions().len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ALLOW, ERRNO};
    use super::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    fn filter(code: Vec<Instruction>) -> Result<CallFilter> {
        CallFilter::new(Program::new(code)?)
    }

    #[test]
    fn programs_decide() {
        // getpid fails with 1, and a call whose first argument is above 2^32 with 2.
        let code = vec![
            i(op::LD_W_ABS, 0, 0, 0),
            i(op::JMP | op::JEQ, 0, 1, 39),
            i(op::RET_K, 0, 0, ERRNO | 1),
            i(op::LD_W_ABS, 0, 0, 20),
            i(op::JMP | op::JGT, 0, 1, 0),
            i(op::RET_K, 0, 0, ERRNO | 2),
            i(op::RET_K, 0, 0, ALLOW),
        ];
        let program = filter(code).expect("a program");
        let call = |nr, first| program.decide(&Data { nr, ip: 0, args: [first, 0, 0, 0, 0, 0] });
        assert_eq!((call(39, 0), call(1, 5), call(1, 1 << 32)), (ERRNO | 1, ALLOW, ERRNO | 2));
    }

    #[test]
    fn what_packets_alone_have_is_refused() {
        let ret = i(op::RET_K, 0, 0, ALLOW);
        for bad in [
            i(op::LD_W_ABS, 0, 0, 64),
            i(op::LD_W_ABS, 0, 0, 2),
            i(op::LD_H_ABS, 0, 0, 0),
            i(op::LD_W_IND, 0, 0, 0),
            i(op::LDX_B_MSH, 0, 0, 0),
            i(op::ALU | op::MOD, 0, 0, 3),
        ] {
            assert!(filter(vec![bad, ret]).is_err(), "{bad:?}");
        }
    }
}
