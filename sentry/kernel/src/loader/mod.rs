//! execve(2)'s image: from an open file, arguments and environment to an address space that is ready to run.
//!
//! [`load`] follows `#!` lines, maps an ELF program and its interpreter, and writes the initial stack. It changes nothing of the
//! calling process: what fails here leaves it as it was. [`read_strings`] fetches argv and envp.

mod args;
mod elf;
mod script;
mod stack;
#[cfg(test)]
mod tests;

pub use args::read_strings;

use crate::{
    Kernel,
    mm::{MemLimits, Mm},
    vfs::File,
};
use abi::{Result, bail};
use std::sync::Arc;

/// So many programs at most are tried, each the interpreter of the one before.
const ATTEMPTS: usize = 6;
/// Bytes of a file that decide what it is (`BINPRM_BUF_SIZE`).
const HEAD: usize = 256;

/// What a program may know of who runs it: for the auxiliary vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Ids {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// `AT_SECURE`: the program has rights that its caller has not.
    pub secure: bool,
}

/// What is to be run.
pub struct Request<'a> {
    /// Opened with [`crate::vfs::Walker::open_exec`].
    pub file: Arc<File>,
    /// Its name as execve(2) was given it: what a `#!` interpreter gets, and `AT_EXECFN`.
    pub path: &'a [u8],
    /// Arguments.
    pub argv: Vec<Vec<u8>>,
    /// Environment.
    pub envp: Vec<Vec<u8>>,
    /// The name leads nowhere after the call (a descriptor with O_CLOEXEC): a script cannot be run, `ENOENT`.
    pub path_inaccessible: bool,
    /// Opens an interpreter by its name, for execution, from the caller's root and working directory.
    pub open: &'a dyn Fn(&[u8]) -> Result<Arc<File>>,
    /// Called with the program once it is known that it can be run: computes the new credentials (set-id bits of *this* file).
    pub identify: &'a mut dyn FnMut(&Arc<File>) -> Result<Ids>,
    /// The caller's limits.
    pub limits: MemLimits,
    /// Whether addresses are random (not under ADDR_NO_RANDOMIZE).
    pub randomize: bool,
}

/// A program that is ready to run.
pub struct Image {
    /// Its memory.
    pub mm: Arc<Mm>,
    /// Its first instruction.
    pub entry: u64,
    /// Its stack pointer.
    pub stack_pointer: u64,
    /// The program itself, behind all `#!` lines.
    pub exe: Arc<File>,
    /// Its name for the task: the last component of the name that was called, at most 15 bytes.
    pub comm: Vec<u8>,
}

/// Makes the image. `ENOEXEC`: not a program that can be run; `ELIBBAD`: its interpreter is none; `E2BIG`; `ELOOP`: too many `#!` lines;
/// and what opening and mapping fail with.
pub fn load(kernel: &Kernel, request: Request<'_>) -> Result<Image> {
    let Request { mut file, path, mut argv, envp, path_inaccessible, open, identify, limits, randomize } = request;
    if argv.is_empty() {
        // Programs rely on argv[0] being there.
        argv.push(Vec::new());
    }
    let mut name = path.to_vec();
    let mut inaccessible = path_inaccessible;
    for _ in 0..ATTEMPTS {
        args::check_size(&argv, &envp, path, &limits)?;
        let mut head = [0; HEAD];
        let n = file.read_at(&mut head, 0)?;
        let head = head.get(..n).unwrap_or_default();
        let Some(script) = script::parse(head)? else {
            let program = elf::Program::read(&file, head)?;
            let interpreter = program.interpreter(&file, open)?;
            let ids = identify(&file)?;
            let mm = Mm::new(&kernel.memory, &kernel.platform)?;
            mm.set_limits(limits);
            let loaded = elf::map(&mm, &file, &program, interpreter.as_ref(), randomize)?;
            let vdso = kernel.vdso.map(&mm)?;
            let start = stack::Start { path, argv: &argv, envp: &envp, ids, randomize, vdso };
            let stack_pointer = stack::build(&mm, &start, &loaded, &limits)?;
            mm.update_layout(|l| l.exe = Some(file.clone()));
            return Ok(Image { mm, entry: loaded.start, stack_pointer, exe: file, comm: comm(path) });
        };
        if inaccessible {
            bail!(ENOENT, "the script's name is gone after execve");
        }
        let mut next = vec![script.interpreter.clone()];
        next.extend(script.argument);
        next.push(name);
        next.extend(argv.into_iter().skip(1));
        argv = next;
        file = open(&script.interpreter)?;
        name = script.interpreter;
        inaccessible = false;
    }
    bail!(ELOOP, "too many #! lines")
}

/// The last component of a path, as long as a task's name may be.
fn comm(path: &[u8]) -> Vec<u8> {
    path.rsplit(|&b| b == b'/').next().unwrap_or_default().iter().copied().take(15).collect()
}
