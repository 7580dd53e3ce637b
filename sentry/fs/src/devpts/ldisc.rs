//! The line discipline (N_TTY): what lies between the bytes of the master and what the slave's readers and writers see.
//!
//! Plain data and rules, no locks and no waiting: [`Ldisc`] is driven by [`super::tty`], which holds it under its lock.

use super::termios::{DISABLED, Termios, Winsize};
use abi::libc;
use abi::signal::Signal;
use std::collections::VecDeque;

/// Most bytes that wait for the slave's reader (`N_TTY_BUF_SIZE`).
pub const INPUT_MAX: usize = 4096;
/// Most bytes that wait for the master's reader.
pub const OUTPUT_MAX: usize = 65536;

/// What processing input asks the terminal to do.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Effects {
    /// Signals to send to the foreground process group, in order.
    pub signals: Vec<Signal>,
    /// The slave may be able to read now.
    pub readable: bool,
    /// Output was stopped or started, or input was flushed: writers and the master should look.
    pub changed: bool,
    /// `TIOCPKT_*` bits for a master in packet mode.
    pub packet: u8,
}

/// One terminal's line discipline.
pub struct Ldisc {
    /// Settings.
    pub termios: Termios,
    /// Size.
    pub winsize: Winsize,
    /// Complete input: in canonical mode lines with their delimiters, else bytes.
    input: VecDeque<u8>,
    /// Lengths of the lines in `input`, and whether each ends in an end-of-file character, which is not in `input`.
    lines: VecDeque<(usize, bool)>,
    /// The line being edited (canonical mode).
    edit: Vec<u8>,
    /// Bytes for the master.
    pub output: VecDeque<u8>,
    /// Output is held by the STOP character or TCOOFF.
    pub stopped: bool,
    /// The next input character is taken literally.
    literal: bool,
    /// Column of the cursor, for tabs and erasing.
    column: usize,
    /// Column at which the line being edited began.
    edit_column: usize,
}

impl Default for Ldisc {
    fn default() -> Self {
        Ldisc {
            termios: Termios::standard(),
            winsize: Winsize::default(),
            input: VecDeque::new(),
            lines: VecDeque::new(),
            edit: Vec::new(),
            output: VecDeque::new(),
            stopped: false,
            literal: false,
            column: 0,
            edit_column: 0,
        }
    }
}

impl Ldisc {
    fn canonical(&self) -> bool {
        self.termios.local(libc::ICANON)
    }

    /// Room for bytes from the master.
    #[must_use]
    pub fn input_room(&self) -> usize {
        // In canonical mode a full line must still take the characters that end or erase it; they are dropped later if need be.
        if self.canonical() && self.lines.is_empty() {
            return INPUT_MAX.saturating_sub(self.input.len()).max(1);
        }
        INPUT_MAX.saturating_sub(self.input.len() + self.edit.len())
    }

    /// Bytes that a read could take now (`FIONREAD`).
    #[must_use]
    pub fn available(&self) -> usize {
        if self.canonical() { self.lines.iter().map(|l| l.0).sum() } else { self.input.len() }
    }

    /// Whether a reader would get something (an end of file included), given how many bytes it needs in raw mode.
    #[must_use]
    pub fn readable(&self) -> bool {
        if self.canonical() {
            !self.lines.is_empty()
        } else {
            let min = if self.termios.cc[libc::VTIME] == 0 { usize::from(self.termios.cc[libc::VMIN]).max(1) } else { 1 };
            self.input.len() >= min
        }
    }

    /// Takes what one read(2) of `room` bytes gets. `None`: it would wait. An empty answer in canonical mode is an end of file.
    /// `expired`: the time of a timed read (`VTIME`) has run out, so that it takes what there is.
    pub fn take(&mut self, room: usize, expired: bool) -> Option<Vec<u8>> {
        if self.canonical() {
            let (len, eof) = *self.lines.front()?;
            let n = len.min(room);
            let bytes = self.input.drain(..n).collect();
            if n == len {
                self.lines.pop_front();
            } else if let Some(l) = self.lines.front_mut() {
                *l = (len - n, eof);
            }
            return Some(bytes);
        }
        let (min, time) = (usize::from(self.termios.cc[libc::VMIN]), self.termios.cc[libc::VTIME]);
        let need = if min == 0 { usize::from(time > 0) } else { min.min(room) };
        if self.input.len() < need && !expired {
            return None;
        }
        let n = room.min(self.input.len());
        Some(self.input.drain(..n).collect())
    }

    /// Throws away what was typed.
    pub fn flush_input(&mut self) {
        self.input.clear();
        self.lines.clear();
        self.edit.clear();
        self.literal = false;
    }

    /// New settings. Switching canonical mode off makes a half-typed line readable; switching it on makes what is there a line.
    pub fn set_termios(&mut self, new: Termios) -> Effects {
        let (was, is) = (self.canonical(), new.local(libc::ICANON));
        let mut effects = Effects::default();
        let ixon_off = self.termios.input(libc::IXON) && !new.input(libc::IXON);
        let flow = |t: &Termios| t.input(libc::IXON) && t.cc[libc::VSTOP] == 19 && t.cc[libc::VSTART] == 17;
        if flow(&self.termios) != flow(&new) {
            effects.packet |= if flow(&new) { super::termios::TIOCPKT_DOSTOP } else { super::termios::TIOCPKT_NOSTOP } as u8;
        }
        self.termios = new;
        if was && !is {
            let edit = std::mem::take(&mut self.edit);
            self.input.extend(edit);
            self.lines.clear();
            self.literal = false;
        } else if !was && is && !self.input.is_empty() {
            self.lines.push_back((self.input.len(), false));
        }
        if ixon_off && self.stopped {
            self.stopped = false;
            effects.packet |= super::termios::TIOCPKT_START as u8;
        }
        effects.readable = true;
        effects.changed = true;
        effects
    }

    /// Takes bytes that the master wrote: what a person typed. Returns how many were taken.
    pub fn receive(&mut self, bytes: &[u8], effects: &mut Effects) -> usize {
        let mut n = 0;
        for &c in bytes {
            if self.input_room() == 0 {
                break;
            }
            self.receive_one(c, effects);
            n += 1;
        }
        n
    }

    fn receive_one(&mut self, mut c: u8, fx: &mut Effects) {
        let t = self.termios;
        if t.input(libc::ISTRIP) {
            c &= 0x7f;
        }
        if t.input(libc::IUCLC) && t.local(libc::IEXTEN) {
            c = c.to_ascii_lowercase();
        }
        if std::mem::take(&mut self.literal) {
            self.put(c, true, fx);
            return;
        }
        if t.input(libc::IXON) {
            if t.is_cc(libc::VSTART, c) {
                self.start(fx);
                return;
            }
            if t.is_cc(libc::VSTOP, c) {
                if !self.stopped {
                    self.stopped = true;
                    fx.packet |= super::termios::TIOCPKT_STOP as u8;
                }
                return;
            }
            if self.stopped && t.input(libc::IXANY) {
                self.start(fx);
            }
        }
        if t.local(libc::ISIG) {
            let signal = if t.is_cc(libc::VINTR, c) {
                Some(Signal::INT)
            } else if t.is_cc(libc::VQUIT, c) {
                Some(Signal::QUIT)
            } else if t.is_cc(libc::VSUSP, c) {
                Some(Signal::TSTP)
            } else {
                None
            };
            if let Some(s) = signal {
                self.signal_char(c, s, fx);
                return;
            }
        }
        match c {
            b'\r' if t.input(libc::IGNCR) => return,
            b'\r' if t.input(libc::ICRNL) => c = b'\n',
            b'\n' if t.input(libc::INLCR) => c = b'\r',
            _ => {}
        }
        if self.canonical() && self.edit_char(c, fx) {
            return;
        }
        self.put(c, false, fx);
    }

    /// Output goes on after a STOP.
    pub fn start(&mut self, fx: &mut Effects) {
        if self.stopped {
            self.stopped = false;
            fx.changed = true;
            fx.packet |= super::termios::TIOCPKT_START as u8;
        }
    }

    fn signal_char(&mut self, c: u8, s: Signal, fx: &mut Effects) {
        if !self.termios.local(libc::NOFLSH) {
            self.flush_input();
            self.output.clear();
            fx.packet |= (super::termios::TIOCPKT_FLUSHREAD | super::termios::TIOCPKT_FLUSHWRITE) as u8;
        }
        self.start(fx);
        if self.termios.local(libc::ECHO) {
            self.echo(c);
        }
        fx.signals.push(s);
        fx.changed = true;
    }

    /// Editing and line ends of canonical mode. Returns whether `c` was dealt with.
    fn edit_char(&mut self, c: u8, fx: &mut Effects) -> bool {
        let t = self.termios;
        let extended = t.local(libc::IEXTEN);
        if t.is_cc(libc::VERASE, c) {
            self.erase_one();
        } else if t.is_cc(libc::VWERASE, c) && extended {
            self.erase_word();
        } else if t.is_cc(libc::VKILL, c) {
            self.kill_line(c);
        } else if t.is_cc(libc::VLNEXT, c) && extended {
            self.literal = true;
            if t.local(libc::ECHO) && t.local(libc::ECHOCTL) {
                self.emit_raw(b"^\x08");
            }
        } else if t.is_cc(libc::VREPRINT, c) && extended && t.local(libc::ECHO) {
            self.echo(c);
            self.emit(b'\n');
            let line = self.edit.clone();
            self.edit_column = self.column;
            line.iter().for_each(|&b| self.echo(b));
        } else if c == b'\n' {
            if t.local(libc::ECHO) || t.local(libc::ECHONL) {
                self.emit(b'\n');
            }
            self.end_line(Some(c), fx);
        } else if t.is_cc(libc::VEOF, c) {
            self.end_line(None, fx);
        } else if t.is_cc(libc::VEOL, c) || (t.is_cc(libc::VEOL2, c) && extended) {
            if t.local(libc::ECHO) {
                self.echo(c);
            }
            self.end_line(Some(c), fx);
        } else {
            return false;
        }
        true
    }

    fn end_line(&mut self, delimiter: Option<u8>, fx: &mut Effects) {
        let mut line = std::mem::take(&mut self.edit);
        line.extend(delimiter);
        self.lines.push_back((line.len(), delimiter.is_none()));
        self.input.extend(line);
        fx.readable = true;
    }

    /// Adds an ordinary character, with its echo.
    fn put(&mut self, c: u8, literal: bool, fx: &mut Effects) {
        let t = self.termios;
        if self.canonical() && self.edit.len() + self.input.len() >= INPUT_MAX - 1 {
            if t.input(libc::IMAXBEL) {
                self.emit_raw(b"\x07");
            }
            return;
        }
        if t.local(libc::ECHO) {
            if self.edit.is_empty() {
                self.edit_column = self.column;
            }
            if c == b'\n' && !literal { self.emit(c) } else { self.echo(c) }
        }
        if self.canonical() {
            self.edit.push(c);
        } else {
            self.input.push_back(c);
            fx.readable = true;
        }
    }

    /// Echoes a character as ECHOCTL says.
    fn echo(&mut self, c: u8) {
        if self.termios.local(libc::ECHOCTL) && (c < 0x20 || c == 0x7f) && c != b'\t' {
            self.emit_raw(&[b'^', c ^ 0x40]);
        } else {
            self.emit(c);
        }
    }

    /// How wide the edited line's character at `i` is on the screen, given where the line began.
    fn width_at(&self, i: usize) -> usize {
        let mut column = self.edit_column;
        let mut last = 0;
        for &c in self.edit.iter().take(i + 1) {
            last = match c {
                b'\t' => 8 - column % 8,
                0..=0x1f | 0x7f => {
                    if self.termios.local(libc::ECHOCTL) {
                        2
                    } else {
                        0
                    }
                }
                // Continuation bytes of UTF-8 take no place.
                0x80..=0xbf if self.termios.input(libc::IUTF8) => 0,
                _ => 1,
            };
            column += last;
        }
        last
    }

    fn erase_last(&mut self) -> Option<u8> {
        let i = self.edit.len().checked_sub(1)?;
        let width = self.width_at(i);
        let c = self.edit.pop()?;
        if self.termios.local(libc::ECHO) {
            if self.termios.local(libc::ECHOE) {
                // A tab leaves nothing to be wiped: the cursor goes back over it.
                let wipe: &[u8] = if c == b'\t' { b"\x08" } else { b"\x08 \x08" };
                for _ in 0..width {
                    self.emit_raw(wipe);
                }
            } else {
                self.echo(self.termios.cc[libc::VERASE]);
            }
        }
        Some(c)
    }

    fn erase_one(&mut self) {
        // With IUTF8 a character is its lead byte and all continuation bytes.
        while let Some(c) = self.erase_last() {
            if !(self.termios.input(libc::IUTF8) && c & 0xc0 == 0x80) {
                break;
            }
        }
    }

    fn erase_word(&mut self) {
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c >= 0x80;
        while self.edit.last().is_some_and(|&c| !word(c)) {
            self.erase_one();
        }
        while self.edit.last().is_some_and(|&c| word(c)) {
            self.erase_one();
        }
    }

    fn kill_line(&mut self, c: u8) {
        let t = self.termios;
        if t.local(libc::ECHO) && t.local(libc::ECHOKE) && t.local(libc::ECHOE) && t.local(libc::ECHOK) {
            while !self.edit.is_empty() {
                self.erase_one();
            }
            return;
        }
        self.edit.clear();
        if t.local(libc::ECHO) {
            self.echo(c);
            if t.local(libc::ECHOK) {
                self.emit(b'\n');
            }
        }
    }

    /// Takes bytes that the slave wrote, as many as there is room for in the master's queue.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if self.stopped {
            return 0;
        }
        let mut n = 0;
        for &c in bytes {
            // One character becomes at most eight (a tab).
            if self.output.len() + 8 > OUTPUT_MAX {
                break;
            }
            self.emit(c);
            n += 1;
        }
        n
    }

    /// Whether the slave could write now.
    #[must_use]
    pub fn writable(&self) -> bool {
        !self.stopped && self.output.len() + 8 <= OUTPUT_MAX
    }

    fn emit_raw(&mut self, bytes: &[u8]) {
        for &c in bytes {
            match c {
                8 => self.column = self.column.saturating_sub(1),
                c if c >= 0x20 => self.column += 1,
                _ => {}
            }
            if self.output.len() < OUTPUT_MAX {
                self.output.push_back(c);
            }
        }
    }

    /// One character through output processing.
    fn emit(&mut self, mut c: u8) {
        let t = self.termios;
        if !t.output(libc::OPOST) {
            self.emit_raw(&[c]);
            return;
        }
        match c {
            b'\n' => {
                if t.output(libc::ONLRET) {
                    self.column = 0;
                }
                if t.output(libc::ONLCR) {
                    self.column = 0;
                    self.emit_raw(b"\r\n");
                } else {
                    self.emit_raw(b"\n");
                }
                return;
            }
            b'\r' => {
                if t.output(libc::ONOCR) && self.column == 0 {
                    return;
                }
                if t.output(libc::OCRNL) {
                    self.emit_raw(b"\n");
                    if t.output(libc::ONLRET) {
                        self.column = 0;
                    }
                } else {
                    self.column = 0;
                    self.emit_raw(b"\r");
                }
                return;
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                if t.oflag & libc::TABDLY == libc::XTABS {
                    self.emit_raw(&b"        "[..spaces]);
                } else {
                    self.column += spaces;
                    self.emit_raw(b"\t");
                }
                return;
            }
            _ => {}
        }
        if t.output(libc::OLCUC) {
            c = c.to_ascii_uppercase();
        }
        let before = self.column;
        self.emit_raw(&[c]);
        // A continuation byte of UTF-8 does not move the cursor.
        if t.input(libc::IUTF8) && c & 0xc0 == 0x80 {
            self.column = before;
        }
    }

    /// The signal-free half of a hangup: nothing typed or written survives.
    pub fn hangup(&mut self) {
        self.flush_input();
        self.stopped = false;
    }

    /// The character that ends a file in canonical mode, for feeding an end of input from a host that has no terminal.
    #[must_use]
    pub fn eof_char(&self) -> Option<u8> {
        let c = self.termios.cc[libc::VEOF];
        (c != DISABLED).then_some(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(l: &mut Ldisc, s: &[u8]) -> Effects {
        let mut fx = Effects::default();
        assert_eq!(l.receive(s, &mut fx), s.len());
        fx
    }

    fn echoed(l: &mut Ldisc) -> String {
        String::from_utf8_lossy(&l.output.drain(..).collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn a_line_is_read_when_it_ends() {
        let mut l = Ldisc::default();
        typed(&mut l, b"helo");
        assert!(!l.readable());
        typed(&mut l, b"\x7flo\r");
        assert_eq!(echoed(&mut l), "helo\x08 \x08lo\r\n");
        assert_eq!(l.take(100, false), Some(b"hello\n".to_vec()));
        assert_eq!(l.take(100, false), None);
    }

    #[test]
    fn end_of_file_gives_an_empty_read_or_ends_a_part() {
        let mut l = Ldisc::default();
        typed(&mut l, b"\x04ab\x04");
        assert_eq!(l.take(10, false), Some(vec![]));
        assert_eq!(l.take(10, false), Some(b"ab".to_vec()));
        assert_eq!(l.take(10, false), None);
    }

    #[test]
    fn short_reads_split_a_line() {
        let mut l = Ldisc::default();
        typed(&mut l, b"abcd\nx\n");
        assert_eq!(l.take(3, false), Some(b"abc".to_vec()));
        assert_eq!(l.take(9, false), Some(b"d\n".to_vec()));
        assert_eq!(l.take(9, false), Some(b"x\n".to_vec()));
    }

    #[test]
    fn word_and_line_erase() {
        let mut l = Ldisc::default();
        typed(&mut l, b"one two\x17x\n");
        assert_eq!(l.take(99, false), Some(b"one x\n".to_vec()));
        typed(&mut l, b"one two\x15x\n");
        assert_eq!(l.take(99, false), Some(b"x\n".to_vec()));
    }

    #[test]
    fn signals_flush_and_echo() {
        let mut l = Ldisc::default();
        let fx = typed(&mut l, b"abc\x03");
        assert_eq!(fx.signals, [Signal::INT]);
        assert!(echoed(&mut l).ends_with("^C"));
        typed(&mut l, b"d\n");
        assert_eq!(l.take(99, false), Some(b"d\n".to_vec()));
    }

    #[test]
    fn raw_mode_gives_bytes_at_once() {
        let mut l = Ldisc::default();
        let mut t = l.termios;
        t.lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        l.set_termios(t);
        typed(&mut l, b"\x03a");
        assert_eq!(l.take(9, false), Some(b"\x03a".to_vec()));
        assert_eq!(l.take(9, false), None);
        t.cc[libc::VMIN] = 0;
        l.set_termios(t);
        assert_eq!(l.take(9, false), Some(vec![]));
    }

    #[test]
    fn literal_next_and_stop() {
        let mut l = Ldisc::default();
        typed(&mut l, b"\x16\x03\n");
        assert_eq!(l.take(9, false), Some(b"\x03\n".to_vec()));
        typed(&mut l, b"\x13");
        assert_eq!(l.write(b"x"), 0);
        assert!(typed(&mut l, b"\x11").changed);
        assert_eq!(l.write(b"x"), 1);
    }

    #[test]
    fn output_is_processed() {
        let mut l = Ldisc::default();
        l.write(b"a\nb");
        assert_eq!(echoed(&mut l), "a\r\nb");
    }
}
