//! Guest threads that wait in the kernel between their calls.

use super::*;

/// Rounds of each thread: all short of one call and most of one wait.
const ROUNDS: u64 = 400;

/// Threads of two processes make calls and wait in turns, for nothing or longer than anybody looks for them; some have their registers read meanwhile.
/// Each sees its own calls, in order, and keeps its registers.
pub fn waiting_in_the_kernel_loses_no_call(make: Make) {
    let g = Arc::new(Guest::new(make));
    let spaces = [g.space(CALLS, 0), g.space(CALLS, 8 * PAGE_SIZE)];
    let threads: Vec<_> = (0..6u8)
        .map(|i| {
            let (g, space) = (Arc::clone(&g), Arc::clone(&spaces[usize::from(i) % 2]));
            host::thread::spawn("task", move || {
                let mut ctx = g.context();
                let mut r = regs();
                for n in 0..ROUNDS {
                    // Some numbers above are for no filter to see.
                    (r.rax, r.rbx) = (n % 300, u64::from(i) << 32 | n);
                    assert_eq!(ctx.switch(&space, &mut r), Event::Syscall);
                    assert_eq!((r.orig_rax, r.rbx), (n % 300, u64::from(i) << 32 | n));
                    if n == 0 {
                        let mut fp = ctx.fp_state();
                        fp.0[160 + 48..160 + 64].copy_from_slice(&[i; 16]);
                        // XSTATE_BV: the SSE registers are not in their initial state.
                        fp.0[512] |= 2;
                        ctx.set_fp_state(&fp).expect("set");
                    }
                    if n % 3 == 0 {
                        crate::set_blocked(true);
                        ctx.set_blocked(true);
                        if n % 2 == 0 {
                            std::thread::sleep(Duration::from_micros(n % 200));
                        }
                        crate::set_blocked(false);
                        ctx.set_blocked(false);
                    }
                    if n % 7 == 0 {
                        assert_eq!(ctx.fp_state().0[160 + 48..160 + 64], [i; 16], "round {n}");
                    }
                }
            })
            .expect("spawn")
        })
        .collect();
    for thread in threads {
        thread.join().expect("join");
    }
}
