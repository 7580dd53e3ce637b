//! `execve`: arguments, environment, scripts, errors, and what of a process survives it.

use crate::sys::*;
use crate::{check, eq, err, list, ok, say, sys};
use std::ffi::CString;

pub const TESTS: &[crate::Test] = list!["exec";
    args_env, errors, script, script_errors, script_depth, cloexec, keeps, signals, from_thread, execveat_calls, fexecve_deleted, big_args, too_big_args,
    noexec_format, set_user_id, set_group_id, no_new_privs, caps_across, auxv, proc_names, argv_empty, closes_shared_fds, kills_threads, vfork_exec,
    brk_and_maps_reset, caps_ambient,
];

/// Executes this program in the role; returns only where that fails.
pub fn exec(path: &std::ffi::CStr, argv: &[&str], env: &[&str]) -> E {
    let argv: Vec<CString> = argv.iter().map(c).collect();
    let env: Vec<CString> = env.iter().map(c).collect();
    let ptrs = |v: &Vec<CString>| v.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (a, e) = (ptrs(&argv), ptrs(&env));
    sys!(execve, path, a.as_ptr(), e.as_ptr()).unwrap_err()
}

/// What the executed half of a subtest does.
pub fn helper(role: &str, args: &[String]) {
    let first: i32 = args.first().and_then(|a| a.parse().ok()).unwrap_or(-1);
    match role {
        r if r.starts_with("@show") => {
            for a in std::env::args().skip(1) {
                say!("arg {a:?}");
            }
            for (k, v) in std::env::vars() {
                say!("env {k}={v}");
            }
        }
        "@fds" => {
            for a in args {
                say!("{a}: {:?}", sys!(fcntl, a.parse::<i32>().unwrap_or(-1), F_GETFD));
            }
        }
        "@ids" => {
            let (mut r, mut e, mut s) = (0u32, 0u32, 0u32);
            ok!(sys!(getresuid, m(&mut r), m(&mut e), m(&mut s)));
            let g = (ok!(sys!(getgid)), ok!(sys!(getegid)));
            let secure = unsafe { getauxval(AT_SECURE) };
            say!("uid {r} {e} {s} gid {g:?} secure {secure} dumpable {:?}", sys!(prctl, PR_GET_DUMPABLE, 0, 0, 0, 0));
        }
        "@caps" => {
            let text = String::from_utf8(get("/proc/self/status")).unwrap();
            // what the bounding set holds is the container's business: shown are the others in relation to it
            let value = |key: &str| {
                let line = text.lines().find(|l| l.starts_with(key)).unwrap_or("");
                u64::from_str_radix(line.split_whitespace().nth(1).unwrap_or(""), 16).unwrap_or(1 << 63)
            };
            let all = value("CapBnd");
            for key in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                let v = value(key);
                say!("{key} {}", if v == all { "all".to_string() } else { format!("{v:#x}") });
            }
        }
        "@signals" => {
            for s in [SIGUSR1, SIGUSR2, SIGHUP] {
                let mut sa = [0u64; 4];
                ok!(sys!(rt_sigaction, s, 0, m(&mut sa), 8));
                say!("{s} {}", if sa[0] > 1 { 2 } else { sa[0] });
            }
            say!("mask {:#x}", mask(SIG_BLOCK, &[]));
            let mut pending = 0u64;
            ok!(sys!(rt_sigpending, m(&mut pending), 8));
            say!("pending {pending:#x}");
        }
        "@state" => {
            say!("pid same {}", getpid() == first);
            say!("tid is pid {}", gettid() == getpid());
            let cwd = std::env::current_dir().unwrap();
            say!("cwd {}", cwd.display());
            say!("umask {:#o} nice {:?}", ok!(sys!(umask, 0)), sys!(getpriority, 0, 0));
            let mut r = unsafe { std::mem::zeroed::<rlimit>() };
            ok!(sys!(getrlimit, RLIMIT_CORE, m(&mut r)));
            say!("core {}", r.rlim_cur);
            let mut it = unsafe { std::mem::zeroed::<itimerval>() };
            ok!(sys!(getitimer, ITIMER_REAL, m(&mut it)));
            say!("timer {}", it.it_value.tv_sec > 500);
        }
        "@aux" => {
            let text = unsafe { std::ffi::CStr::from_ptr(getauxval(AT_EXECFN) as *const c_char) };
            say!("execfn {text:?}");
            let get = |n| unsafe { getauxval(n) };
            say!("pagesz {} uid {} euid {} clktck {} secure {}", get(AT_PAGESZ), get(AT_UID), get(AT_EUID), get(AT_CLKTCK), get(AT_SECURE));
            say!("platform {:?}", unsafe { std::ffi::CStr::from_ptr(get(AT_PLATFORM) as *const c_char) });
            check!(get(AT_SYSINFO_EHDR) != 0 && get(AT_RANDOM) != 0 && get(AT_PHDR) != 0 && get(AT_ENTRY) != 0 && get(AT_PHNUM) > 2);
        }
        "@names" => {
            // for a descriptor without a name, what stands here is another thing in every few versions
            if !args.iter().any(|a| a == "nameless") {
                say!("comm {:?}", String::from_utf8_lossy(&get("/proc/self/comm")));
            }
            say!("cmdline {:?}", String::from_utf8_lossy(&get("/proc/self/cmdline")));
            say!("environ {:?}", String::from_utf8_lossy(&get("/proc/self/environ")));
            say!("exe {}", std::fs::read_link("/proc/self/exe").unwrap().display());
            let stat = String::from_utf8(get("/proc/self/stat")).unwrap();
            let name = stat.split_whitespace().nth(1).unwrap_or("");
            let comm = String::from_utf8(get("/proc/self/comm")).unwrap();
            eq!(name, format!("({})", comm.trim_end()));
        }
        "@count" => {
            let n: usize = std::env::args().map(|a| a.len()).sum();
            let e: usize = std::env::vars().map(|(k, v)| k.len() + v.len()).sum();
            say!("{} {n} {e}", std::env::args().count());
        }
        "@mem" => {
            let maps = String::from_utf8(get("/proc/self/maps")).unwrap();
            say!("old mapping there: {}", maps.contains("123400000000"));
            say!("heap at most small: {}", maps.lines().filter(|l| l.ends_with("[heap]")).count() <= 1);
        }
        "@exit" => std::process::exit(first),
        _ => std::process::exit(3),
    }
}

const ME: &std::ffi::CStr = c"/proc/self/exe";

fn run(role: &[&str]) {
    let argv: Vec<&str> = ["guest"].into_iter().chain(role.iter().copied()).collect();
    in_child(|| {
        let e = exec(ME, &argv, &[]);
        say!("exec: {e:?}");
    });
}

fn args_env() {
    in_child(|| {
        exec(ME, &["guest", "@show", "", "two words", "ünïcode", "a=b"], &["A=1", "B=", "LONG=xyz xyz"]);
    });
    in_child(|| {
        exec(ME, &["guest", "@show"], &[]);
    });
}

fn errors() {
    put("plain", b"text");
    let x = |path: &std::ffi::CStr| exec(path, &["x"], &[]);
    say!("not executable {:?}", x(c"plain"));
    say!("missing {:?}", x(c"none"));
    say!("directory {:?}", x(c"."));
    say!("empty name {:?}", x(c""));
    say!("through a file {:?}", x(c"plain/x"));
    ok!(sys!(chmod, c"plain", 0o755));
    say!("no format {:?}", x(c"plain"));
    put("empty", b"");
    ok!(sys!(chmod, c"empty", 0o755));
    say!("empty file {:?}", x(c"empty"));
    err!(sys!(execve, 8, 0, 0), EFAULT);
    err!(sys!(execve, ME, 8, 0), EFAULT);
    let bad = [8usize, 0];
    err!(sys!(execve, ME, p(&bad), 0), EFAULT);
    ok!(sys!(mknod, c"fifo", S_IFIFO | 0o755, 0));
    say!("fifo {:?}", x(c"fifo"));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        put("/tmp/mine", b"");
        ok!(sys!(chmod, c"/tmp/mine", 0o600));
        say!("as a user {:?}", x(c"/tmp/mine"));
    });
}

fn noexec_format() {
    let try_it = |what: &str, bytes: &[u8]| {
        put("f", bytes);
        ok!(sys!(chmod, c"f", 0o755));
        let status = wait(fork(|| say!("{what} {:?}", exec(c"f", &["f"], &[]))));
        say!("{what} {}", show_status(status));
    };
    let mut elf = get("/proc/self/exe");
    elf.truncate(4096);
    try_it("cut short after the header", &elf[..64]);
    let mut bad = elf.clone();
    bad[4] = 9;
    try_it("class", &bad[..200]);
    let mut bad = elf.clone();
    bad[18] = 0xb7;
    try_it("machine", &bad);
    let mut bad = elf.clone();
    bad[16] = 1;
    try_it("type", &bad);
    let mut bad = elf.clone();
    bad[56] = 0;
    bad[57] = 0;
    try_it("no headers", &bad);
    try_it("only the magic", b"\x7fELF");
}

fn script() {
    std::fs::copy("/proc/self/exe", "interp").unwrap();
    ok!(sys!(chmod, c"interp", 0o755));
    let here = std::env::current_dir().unwrap();
    put("s", format!("#!{}/interp @show\nrest", here.display()).as_bytes());
    ok!(sys!(chmod, c"s", 0o755));
    in_child(|| {
        exec(c"./s", &["zero", "one", "two"], &["E=1"]);
    });
    put("s2", b"#!  interp \t @show two words  \n");
    ok!(sys!(chmod, c"s2", 0o755));
    in_child(|| {
        exec(c"s2", &["zero"], &[]);
    });
    put("s3", b"#!interp @show");
    ok!(sys!(chmod, c"s3", 0o755));
    in_child(|| {
        exec(c"s3", &["zero", "x"], &[]);
    });
}

fn script_errors() {
    let x = |text: &[u8]| {
        put("s", text);
        ok!(sys!(chmod, c"s", 0o755));
        exec(c"s", &["s"], &[])
    };
    say!("missing interpreter {:?}", x(b"#!/none\n"));
    say!("nothing after {:?}", x(b"#!\n"));
    say!("only blanks {:?}", x(b"#!   \n"));
    put("noexec", b"");
    say!("not executable {:?}", x(b"#!noexec\n"));
    say!("a directory {:?}", x(b"#!/tmp\n"));
    let long = [b"#!".to_vec(), vec![b'x'; 300], b"\n".to_vec()].concat();
    say!("too long {:?}", x(&long));
    say!("itself {:?}", x(b"#!s\n"));
}

fn script_depth() {
    std::fs::copy("/proc/self/exe", "d0").unwrap();
    ok!(sys!(chmod, c"d0", 0o755));
    for i in 1..8 {
        put(&format!("d{i}"), format!("#!d{} {}\n", i - 1, if i == 1 { "@show" } else { "" }).as_bytes());
        ok!(sys!(chmod, &c(format!("d{i}")), 0o755));
    }
    for i in 1..8 {
        in_child(|| {
            say!("{i} {:?}", exec(&c(format!("d{i}")), &["zero"], &[]));
        });
    }
}

fn cloexec() {
    ok!(sys!(dup3, 2, 30, O_CLOEXEC));
    ok!(sys!(dup3, 2, 31, 0));
    ok!(sys!(dup3, 2, 500, O_CLOEXEC));
    ok!(sys!(dup3, 2, 501, 0));
    run(&["@fds", "0", "1", "2", "30", "31", "500", "501"]);
    // and a failed one closes nothing
    in_child(|| {
        exec(c"none", &["x"], &[]);
        eq!(ok!(sys!(fcntl, 30, F_GETFD)), 1);
    });
}

fn keeps() {
    in_child(|| {
        let lim = rlimit { rlim_cur: 4096, rlim_max: 1 << 20 };
        ok!(sys!(setrlimit, RLIMIT_CORE, p(&lim)));
        ok!(sys!(umask, 0o051));
        ok!(sys!(setpriority, 0, 0, 7));
        ok!(sys!(mkdir, c"sub", 0o755));
        ok!(sys!(chdir, c"sub"));
        let it = itimerval { it_interval: timeval { tv_sec: 0, tv_usec: 0 }, it_value: timeval { tv_sec: 1000, tv_usec: 0 } };
        ok!(sys!(setitimer, ITIMER_REAL, p(&it), 0));
        let pid = getpid().to_string();
        exec(ME, &["guest", "@state", &pid], &[]);
    });
}

extern "C" fn nothing(_: i32, _: *mut siginfo_t, _: *mut c_void) {}

fn signals() {
    in_child(|| {
        on(SIGUSR1, nothing, 0);
        action(SIGUSR2, SIG_IGN);
        mask(SIG_BLOCK, &[SIGHUP, SIGTERM]);
        ok!(sys!(kill, getpid(), SIGHUP));
        let alt = stack_t { ss_sp: anon(65536, MAP_PRIVATE).cast(), ss_flags: 0, ss_size: 65536 };
        ok!(sys!(sigaltstack, p(&alt), 0));
        exec(ME, &["guest", "@signals"], &[]);
    });
}

fn from_thread() {
    in_child(|| {
        let pid = getpid().to_string();
        std::thread::spawn(move || {
            check!(gettid() != getpid());
            ok!(sys!(umask, 0));
            exec(ME, &["guest", "@state", &pid], &[]);
        });
        ms(20_000);
    });
}

fn kills_threads() {
    let (r, w) = pipe(O_CLOEXEC);
    let child = fork(|| {
        close(r);
        for _ in 0..8 {
            std::thread::spawn(|| {
                loop {
                    ms(1000);
                }
            });
        }
        ms(20);
        exec(ME, &["guest", "@exit", "9"], &[]);
    });
    close(w);
    eq!(ok!(read(r, 1)), b"");
    say!("{}", show_status(wait(child)));
}

fn closes_shared_fds() {
    // a table shared with CLONE_FILES is not shared any more after execve
    ok!(sys!(dup3, 2, 40, O_CLOEXEC));
    let child = ok!(sys!(clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0)) as i32;
    if child == 0 {
        exec(ME, &["guest", "@fds", "40"], &[]);
    }
    eq!(wait(child), 0);
    eq!(ok!(sys!(fcntl, 40, F_GETFD)), 1);
}

fn vfork_exec() {
    // the parent goes on when the child has executed
    let (r, w) = pipe(0);
    let flags = CLONE_VFORK | SIGCHLD;
    let child = ok!(sys!(clone, flags, 0, 0, 0, 0)) as i32;
    if child == 0 {
        ok!(sys!(dup2, r, 0));
        close(w);
        exec(ME, &["guest", "@cat"], &[]);
        unsafe { _exit(1) };
    }
    say!("parent runs");
    ok!(write(w, b"hello\n"));
    close(w);
    eq!(wait(child), 0);
}

fn execveat_calls() {
    let f = ok!(open(c"/proc/self/exe", O_PATH));
    let argv = [c"guest".as_ptr(), c"@show".as_ptr(), std::ptr::null()];
    in_child(|| {
        let _ = sys!(execveat, f, c"", p(&argv), 0, AT_EMPTY_PATH);
    });
    std::fs::copy("/proc/self/exe", "copy").unwrap();
    ok!(sys!(chmod, c"copy", 0o755));
    let d = ok!(open(c".", O_RDONLY));
    in_child(|| {
        let _ = sys!(execveat, d, c"copy", p(&argv), 0, 0);
    });
    ok!(sys!(symlink, c"copy", c"link"));
    err!(sys!(execveat, d, c"link", p(&argv), 0, AT_SYMLINK_NOFOLLOW), ELOOP);
    err!(sys!(execveat, f, c"", p(&argv), 0, 0), ENOENT);
    err!(sys!(execveat, d, c"copy", p(&argv), 0, 1), EINVAL);
    err!(sys!(execveat, 99, c"copy", p(&argv), 0, 0), EBADF);
    put("s", b"#!copy @show\n");
    ok!(sys!(chmod, c"s", 0o755));
    let s = ok!(open(c"s", O_RDONLY | O_CLOEXEC));
    in_child(|| {
        say!("{:?}", sys!(execveat, s, c"", p(&argv), 0, AT_EMPTY_PATH));
    });
}

fn fexecve_deleted() {
    std::fs::copy("/proc/self/exe", "gone").unwrap();
    ok!(sys!(chmod, c"gone", 0o755));
    let f = ok!(open(c"gone", O_PATH));
    ok!(sys!(unlink, c"gone"));
    let argv = [c"guest".as_ptr(), c"@names".as_ptr(), c"nameless".as_ptr(), std::ptr::null()];
    let env = [std::ptr::null::<c_char>()];
    in_child(|| {
        let _ = sys!(execveat, f, c"", p(&argv), p(&env), AT_EMPTY_PATH);
    });
}

fn big_args() {
    let long = "x".repeat(100_000);
    let many: Vec<String> = (0..5000).map(|i| format!("argument-{i}")).collect();
    let mut argv = vec!["guest", "@count", &long];
    argv.extend(many.iter().map(String::as_str));
    in_child(|| {
        exec(ME, &argv, &["K=v", &format!("BIG={long}")]);
    });
}

fn too_big_args() {
    let one = "x".repeat(131_072);
    say!("one too long {:?}", exec(ME, &["guest", &one], &[]));
    let fits = "x".repeat(131_071);
    in_child(|| {
        say!("{:?}", exec(ME, &["guest", "@count", &fits], &[]));
    });
    let many: Vec<String> = (0..30).map(|_| "y".repeat(100_000)).collect();
    let argv: Vec<&str> = many.iter().map(String::as_str).collect();
    say!("all too long {:?}", exec(ME, &argv, &[]));
}

fn set_user_id() {
    std::fs::copy("/proc/self/exe", "prog").unwrap();
    ok!(sys!(chown, c"prog", 1234, 0));
    ok!(sys!(chmod, c"prog", 0o4755));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(c"prog", &["guest", "@ids"], &[]);
    });
    in_child(|| {
        exec(c"prog", &["guest", "@ids"], &[]);
    });
    ok!(sys!(chown, c"prog", 0, 0));
    ok!(sys!(chmod, c"prog", 0o4755));
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(c"prog", &["guest", "@caps"], &[]);
    });
}

fn set_group_id() {
    std::fs::copy("/proc/self/exe", "prog").unwrap();
    ok!(sys!(chown, c"prog", 0, 4321));
    ok!(sys!(chmod, c"prog", 0o2755));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(c"prog", &["guest", "@ids"], &[]);
    });
    // without group execution the bit means something else
    ok!(sys!(chmod, c"prog", 0o2745));
    in_child(|| {
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(c"prog", &["guest", "@ids"], &[]);
    });
}

fn no_new_privs() {
    std::fs::copy("/proc/self/exe", "prog").unwrap();
    ok!(sys!(chmod, c"prog", 0o6755));
    in_child(|| {
        eq!(ok!(sys!(prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)), 0);
        err!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
        ok!(sys!(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
        ok!(sys!(setresgid, 1000, 1000, 1000));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(c"prog", &["guest", "@ids"], &[]);
    });
}

fn caps_across() {
    in_child(|| {
        ok!(sys!(setresuid, 1000, 1000, 1000));
        exec(ME, &["guest", "@caps"], &[]);
    });
    in_child(|| {
        // a bounding set without CAP_SYS_TIME limits root too
        ok!(sys!(prctl, PR_CAPBSET_DROP, 25, 0, 0, 0));
        let before = String::from_utf8(get("/proc/self/status")).unwrap();
        let bit = |text: &str, key: &str| {
            let v = text.lines().find(|l| l.starts_with(key)).and_then(|l| l.split_whitespace().nth(1)).unwrap_or("0");
            u64::from_str_radix(v, 16).unwrap_or(0) >> 25 & 1
        };
        say!("eff {} bnd {}", bit(&before, "CapEff"), bit(&before, "CapBnd"));
        eq!(ok!(sys!(prctl, PR_CAPBSET_READ, 25, 0, 0, 0)), 0);
    });
}

fn caps_ambient() {
    in_child(|| {
        ok!(sys!(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
        ok!(sys!(setresuid, 1000, 1000, 1000));
        let head = [0x2008_0522u32, 0];
        let set = [1u32 << 7, 1 << 7, 1 << 7, 0, 0, 0];
        ok!(sys!(capset, p(&head), p(&set)));
        ok!(sys!(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 7, 0, 0));
        eq!(ok!(sys!(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, 7, 0, 0)), 1);
        err!(sys!(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 8, 0, 0), EPERM);
        let (r, w) = pipe(0);
        let child = fork(|| {
            ok!(sys!(dup2, w, 1));
            exec(ME, &["guest", "@caps"], &[]);
        });
        close(w);
        eq!(wait(child), 0);
        let text = String::from_utf8(ok!(read(r, 4096))).unwrap();
        for l in text.lines() {
            say!("{l}");
        }
    });
}

fn auxv() {
    std::fs::copy("/proc/self/exe", "prog").unwrap();
    ok!(sys!(chmod, c"prog", 0o755));
    in_child(|| {
        exec(c"./prog", &["guest", "@aux"], &[]);
    });
    let raw = get("/proc/self/auxv");
    eq!(raw.len() % 16, 0);
    eq!(raw[raw.len() - 16..], [0; 16]);
}

fn proc_names() {
    std::fs::copy("/proc/self/exe", "a-name-longer-than-fifteen").unwrap();
    ok!(sys!(chmod, c"a-name-longer-than-fifteen", 0o755));
    ok!(sys!(symlink, c"a-name-longer-than-fifteen", c"link"));
    in_child(|| {
        exec(c"link", &["arg zero", "@names", "x"], &["A=b", "C="]);
    });
    in_child(|| {
        ok!(sys!(prctl, PR_SET_NAME, c"renamed (odd) x"));
        say!("{:?}", String::from_utf8_lossy(&get("/proc/self/comm")));
        put("/proc/self/comm", b"by a write\n");
        let mut b = [0u8; 16];
        ok!(sys!(prctl, PR_GET_NAME, m(&mut b)));
        say!("{:?}", String::from_utf8_lossy(&b));
    });
}

fn argv_empty() {
    // an empty argv becomes one empty string (since Linux 5.18)
    in_child(|| {
        let e = exec(ME, &[], &["A=1"]);
        say!("{e:?}");
    });
}

fn brk_and_maps_reset() {
    in_child(|| {
        ok!(sys!(mmap, 0x1234_0000_0000i64, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
        exec(ME, &["guest", "@mem"], &[]);
    });
}
