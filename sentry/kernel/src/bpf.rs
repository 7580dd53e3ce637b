//! Filters as applications write them: programs of the classic Berkeley packet filter, for sockets (`SO_ATTACH_FILTER`) and seccomp(2).
//!
//! A program is checked as a whole when it is installed ([`Program::new`], after Linux's `bpf_check_classic`), so that running it cannot
//! fail: all jumps go forward and stay inside, and it ends with a return. What it reads is an [`Input`].

use crate::{
    mm::Mm,
    user::{UserAddr, UserRef},
};
use abi::{Result, bail};

/// `BPF_MAXINSNS`
pub const MAX: usize = 4096;
/// `BPF_MEMWORDS`
const WORDS: usize = 16;
/// Where offsets of a packet's own data end, and those of what is known about it begin (`SKF_AD_OFF`, as an unsigned number).
pub const ANCILLARY: u32 = 0xffff_f000;
/// The highest of these, without (`SKF_AD_MAX`).
const ANCILLARY_MAX: u32 = 64;

/// What a program looks at.
pub trait Input {
    /// Its length.
    fn len(&self) -> u32;
    /// `size` (1, 2 or 4) bytes at `offset`, in the order of the network; `None` ends the program with 0. Offsets from 2^31 on are negative
    /// ones, which mean something else (linux/filter.h).
    fn load(&self, offset: u32, size: u32) -> Option<u32>;
}

/// `struct sock_filter`
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How far it jumps if true.
    pub jt: u8,
    /// How far it jumps if false.
    pub jf: u8,
    /// A constant.
    pub k: u32,
}

impl Instruction {
    /// The eight bytes that an application has in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let ([c0, c1], [k0, k1, k2, k3]) = (self.code.to_ne_bytes(), self.k.to_ne_bytes());
        [c0, c1, self.jt, self.jf, k0, k1, k2, k3]
    }

    /// From such bytes.
    #[must_use]
    pub fn from_bytes(b: [u8; 8]) -> Instruction {
        let [c0, c1, jt, jf, k0, k1, k2, k3] = b;
        Instruction { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes([k0, k1, k2, k3]) }
    }
}

/// Codes (linux/bpf_common.h), class and operation together.
#[allow(missing_docs)]
pub mod op {
    pub const LD_W_ABS: u16 = 0x20;
    pub const LD_H_ABS: u16 = 0x28;
    pub const LD_B_ABS: u16 = 0x30;
    pub const LD_W_IND: u16 = 0x40;
    pub const LD_H_IND: u16 = 0x48;
    pub const LD_B_IND: u16 = 0x50;
    pub const LDX_B_MSH: u16 = 0xb1;
    pub const LD_W_LEN: u16 = 0x80;
    pub const LDX_W_LEN: u16 = 0x81;
    pub const LD_IMM: u16 = 0x00;
    pub const LDX_IMM: u16 = 0x01;
    pub const LD_MEM: u16 = 0x60;
    pub const LDX_MEM: u16 = 0x61;
    pub const ST: u16 = 0x02;
    pub const STX: u16 = 0x03;
    pub const RET_K: u16 = 0x06;
    pub const RET_A: u16 = 0x16;
    pub const TAX: u16 = 0x07;
    pub const TXA: u16 = 0x87;
    pub const JA: u16 = 0x05;
    pub const NEG: u16 = 0x84;
    /// Class ALU.
    pub const ALU: u16 = 0x04;
    /// Class JMP.
    pub const JMP: u16 = 0x05;
    /// The operand is X, not the constant.
    pub const X: u16 = 0x08;
    /// The bits of a class.
    pub const CLASS: u16 = 0x07;
    /// The bits of an operation.
    pub const OPERATION: u16 = 0xf0;
    pub const ADD: u16 = 0x00;
    pub const SUB: u16 = 0x10;
    pub const MUL: u16 = 0x20;
    pub const DIV: u16 = 0x30;
    pub const OR: u16 = 0x40;
    pub const AND: u16 = 0x50;
    pub const LSH: u16 = 0x60;
    pub const RSH: u16 = 0x70;
    pub const MOD: u16 = 0x90;
    pub const XOR: u16 = 0xa0;
    pub const JEQ: u16 = 0x10;
    pub const JGT: u16 = 0x20;
    pub const JGE: u16 = 0x30;
    pub const JSET: u16 = 0x40;
}

/// A program that has been checked.
#[derive(Debug)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// The program of a `struct sock_fprog`, checked.
    pub fn read(mm: &Mm, at: UserAddr) -> Result<Program> {
        let [length, address]: [u64; 2] = mm.read(UserRef::new(at))?;
        // The length is a 16-bit number with padding behind it.
        let length = usize::from(length as u16);
        if length == 0 || length > MAX || address == 0 {
            bail!(EINVAL, "length of the program");
        }
        let mut bytes = vec![0; length * 8];
        mm.copy_in(UserAddr(address), &mut bytes)?;
        Program::new(bytes.chunks_exact(8).filter_map(|b| b.first_chunk()).map(|b| Instruction::from_bytes(*b)).collect())
    }

    /// Checks a program. `EINVAL` if Linux would not take it.
    pub fn new(code: Vec<Instruction>) -> Result<Program> {
        if code.is_empty() || code.len() > MAX {
            bail!(EINVAL, "length of the program");
        }
        let inside = |at: usize, jump: u32| {
            usize::try_from(jump).ok().and_then(|jump| at.checked_add(1)?.checked_add(jump)).is_some_and(|to| to < code.len())
        };
        for (at, i) in code.iter().enumerate() {
            let fine = match i.code {
                op::LD_W_ABS | op::LD_H_ABS | op::LD_B_ABS => {
                    let about = i.k.wrapping_sub(ANCILLARY);
                    i.k < ANCILLARY || about % 4 == 0 && about < ANCILLARY_MAX
                }
                op::LD_W_IND | op::LD_H_IND | op::LD_B_IND | op::LDX_B_MSH => true,
                op::LD_MEM | op::LDX_MEM | op::ST | op::STX => (i.k as usize) < WORDS,
                op::LD_W_LEN | op::LDX_W_LEN | op::LD_IMM | op::LDX_IMM | op::RET_K | op::RET_A | op::TAX | op::TXA | op::NEG => true,
                op::JA => inside(at, i.k),
                code if code & op::CLASS == op::ALU && code & !(op::CLASS | op::OPERATION | op::X) == 0 => alu_is_fine(i),
                code if code & op::CLASS == op::JMP && code & !(op::CLASS | op::OPERATION | op::X) == 0 => {
                    matches!(code & op::OPERATION, op::JEQ | op::JGT | op::JGE | op::JSET)
                        && inside(at, i.jt.into())
                        && inside(at, i.jf.into())
                }
                _ => false,
            };
            if !fine {
                bail!(EINVAL, "instruction {at} of the program: {i:x?}");
            }
        }
        if !matches!(code.last().map(|i| i.code), Some(op::RET_K | op::RET_A)) {
            bail!(EINVAL, "the program does not end with a return");
        }
        check_memory(&code)?;
        Ok(Program(code))
    }
}

fn alu_is_fine(i: &Instruction) -> bool {
    let constant = i.code & op::X == 0;
    match i.code & op::OPERATION {
        op::ADD | op::SUB | op::MUL | op::OR | op::AND | op::XOR => true,
        op::DIV | op::MOD => !constant || i.k != 0,
        op::LSH | op::RSH => !constant || i.k < 32,
        _ => false,
    }
}

/// No word of memory is read on a path that has not written it (`check_load_and_stores`).
fn check_memory(code: &[Instruction]) -> Result<()> {
    let mut written = vec![u16::MAX; code.len()];
    let mut now = 0_u16;
    for (at, i) in code.iter().enumerate() {
        let Some(from_jumps) = written.get(at) else { break };
        now &= from_jumps;
        let mut meet = |jump: u32, now: u16| {
            if let Some(there) = written.get_mut(at + 1 + jump as usize) {
                *there &= now;
            }
        };
        match i.code {
            op::ST | op::STX => now |= 1 << (i.k % 16),
            op::LD_MEM | op::LDX_MEM if now & 1 << (i.k % 16) == 0 => bail!(EINVAL, "memory is read before it is written"),
            op::JA => {
                meet(i.k, now);
                now = u16::MAX;
            }
            code if code & op::CLASS == op::JMP => {
                meet(i.jt.into(), now);
                meet(i.jf.into(), now);
                now = u16::MAX;
            }
            op::RET_K | op::RET_A => now = u16::MAX,
            _ => {}
        }
    }
    Ok(())
}

impl Program {
    /// What it says about an input.
    pub fn run(&self, input: &impl Input) -> u32 {
        let (mut a, mut x, mut memory) = (0_u32, 0_u32, [0_u32; WORDS]);
        let mut at = 0_usize;
        // Jumps only go forward: this ends.
        while let Some(i) = self.0.get(at) {
            at += 1;
            let cell = (i.k as usize) % WORDS;
            match i.code {
                op::LD_W_ABS | op::LD_H_ABS | op::LD_B_ABS | op::LD_W_IND | op::LD_H_IND | op::LD_B_IND => {
                    let indirect = i.code & 0xe0 == op::LD_W_IND;
                    let offset = if indirect { x.wrapping_add(i.k) } else { i.k };
                    a = match i.k.wrapping_sub(ANCILLARY) {
                        about if !indirect && i.k >= ANCILLARY && about == ALU_XOR_X => a ^ x,
                        _ => match input.load(offset, size(i.code)) {
                            Some(value) => value,
                            None => return 0,
                        },
                    };
                }
                op::LDX_B_MSH => match input.load(i.k, 1) {
                    // The length of an IPv4 header.
                    Some(byte) => x = (byte & 15) << 2,
                    None => return 0,
                },
                op::LD_W_LEN => a = input.len(),
                op::LDX_W_LEN => x = input.len(),
                op::LD_IMM => a = i.k,
                op::LDX_IMM => x = i.k,
                op::LD_MEM => a = memory[cell],
                op::LDX_MEM => x = memory[cell],
                op::ST => memory[cell] = a,
                op::STX => memory[cell] = x,
                op::RET_K => return i.k,
                op::RET_A => return a,
                op::TAX => x = a,
                op::TXA => a = x,
                op::NEG => a = a.wrapping_neg(),
                op::JA => at += i.k as usize,
                code => {
                    let operand = if code & op::X == 0 { i.k } else { x };
                    if code & op::CLASS == op::JMP {
                        at += usize::from(if holds(code, a, operand) { i.jt } else { i.jf });
                    } else {
                        match compute(code, a, operand) {
                            Some(result) => a = result,
                            // As Linux: a division by zero ends the program with 0.
                            None => return 0,
                        }
                    }
                }
            }
        }
        // It ends with a return: this is not reached.
        0
    }

    /// Its instructions.
    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

/// An operation on registers among the ancillary loads (`SKF_AD_ALU_XOR_X`).
const ALU_XOR_X: u32 = 40;

/// Bytes that a load takes.
fn size(code: u16) -> u32 {
    match code & 0x18 {
        0x08 => 2,
        0x10 => 1,
        _ => 4,
    }
}

fn holds(code: u16, a: u32, operand: u32) -> bool {
    match code & op::OPERATION {
        op::JEQ => a == operand,
        op::JGT => a > operand,
        op::JGE => a >= operand,
        _ => a & operand != 0,
    }
}

fn compute(code: u16, a: u32, operand: u32) -> Option<u32> {
    Some(match code & op::OPERATION {
        op::ADD => a.wrapping_add(operand),
        op::SUB => a.wrapping_sub(operand),
        op::MUL => a.wrapping_mul(operand),
        op::DIV => a.checked_div(operand)?,
        op::MOD => a.checked_rem(operand)?,
        op::OR => a | operand,
        op::AND => a & operand,
        op::LSH => a.wrapping_shl(operand),
        op::RSH => a.wrapping_shr(operand),
        _ => a ^ operand,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    struct Bytes<'a>(&'a [u8]);

    impl Input for Bytes<'_> {
        fn len(&self) -> u32 {
            self.0.len() as u32
        }
        fn load(&self, offset: u32, size: u32) -> Option<u32> {
            let bytes = self.0.get(offset as usize..)?.get(..size as usize)?;
            Some(bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
        }
    }

    #[test]
    fn programs_look_at_packets() {
        // UDP to port 53, behind a header of any length, as libpcap writes it.
        let code = vec![
            i(op::LD_B_ABS, 0, 0, 9),
            i(op::JMP | op::JEQ, 0, 4, 17),
            i(op::LDX_B_MSH, 0, 0, 0),
            i(op::LD_H_IND, 0, 0, 2),
            i(op::JMP | op::JEQ, 0, 1, 53),
            i(op::RET_K, 0, 0, 1000),
            i(op::RET_K, 0, 0, 0),
        ];
        let program = Program::new(code).expect("a program");
        let mut packet = vec![0; 40];
        (packet[0], packet[9], packet[27]) = (0x46, 17, 53);
        assert_eq!(program.run(&Bytes(&packet)), 1000);
        packet[0] = 0x45;
        assert_eq!(program.run(&Bytes(&packet)), 0);
        assert_eq!(program.run(&Bytes(&packet[..9])), 0);
        let modulo = vec![i(op::LD_W_LEN, 0, 0, 0), i(op::ALU | op::MOD, 0, 0, 7), i(op::RET_A, 0, 0, 0)];
        assert_eq!(Program::new(modulo).expect("a program").run(&Bytes(&packet)), 40 % 7);
    }

    #[test]
    fn what_linux_refuses_is_refused() {
        let ret = i(op::RET_K, 0, 0, 7);
        for bad in [
            vec![],
            vec![i(op::LD_W_ABS, 0, 0, 0)],
            vec![i(op::LD_W_ABS, 0, 0, ANCILLARY + 2), ret],
            vec![i(op::LD_B_ABS, 0, 0, ANCILLARY + 64), ret],
            vec![i(0x38, 0, 0, 0), ret],
            vec![i(op::ALU | op::MOD, 0, 0, 0), ret],
            vec![i(op::JA, 0, 0, 1), ret],
            vec![i(op::JA, 0, 0, u32::MAX), ret],
            vec![i(op::JMP | op::JEQ, 0, 5, 0), ret],
            vec![i(op::ALU | op::DIV, 0, 0, 0), ret],
            vec![i(op::ALU | op::LSH, 0, 0, 32), ret],
            vec![i(op::ST, 0, 0, 16), ret],
            vec![i(op::LD_MEM, 0, 0, 3), ret],
            vec![ret; MAX + 1],
        ] {
            assert!(Program::new(bad.clone()).is_err(), "{:?}", bad.first());
        }
        assert!(Program::new(vec![i(op::ST, 0, 0, 3), i(op::LD_MEM, 0, 0, 3), ret]).is_ok());
    }

    #[test]
    fn any_bytes_run_to_an_end() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 16
        };
        let codes = [
            0x20, 0x80, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1, 0, 1, 0x60, 0x61, 2, 3, 6, 0x16, 7, 0x87, 5, 0x15, 0x25, 0x3d, 0x45, 4, 0x1c,
            0x34, 0x3c, 0x64, 0x84, 0xff,
        ];
        for _ in 0..20_000 {
            let len = (next() % 12) as usize;
            let code = (0..len)
                .map(|_| i(codes[(next() % 30) as usize], (next() % 4) as u8, (next() % 4) as u8, (next() % 40) as u32))
                .chain([i(op::RET_A, 0, 0, 0)])
                .collect();
            if let Ok(program) = Program::new(code) {
                program.run(&Bytes(&[1, 2, 3, 4, 5, 6, 7, 8]));
            }
        }
    }
}
