//! An interactive shell at a terminal, as a person uses it: tmux types into `caisson do`, and the screen is read.

use caisson_tests_support::{binary, root};
use libtest_mimic::Failed;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tmux server of its own with one window.
struct Tmux {
    socket: String,
}

impl Tmux {
    /// `name` is this server's alone: tests run beside one another.
    fn start(name: &str, command: &str) -> Result<Self, Failed> {
        let tmux = Self { socket: format!("caisson-test-{}-{name}", std::process::id()) };
        tmux.run(&["-f", "/dev/null", "new-session", "-d", "-x", "100", "-y", "40", command])?;
        Ok(tmux)
    }

    fn run(&self, args: &[&str]) -> Result<String, Failed> {
        let output = Command::new("tmux").args(["-L", &self.socket]).args(args).env_remove("TMUX").output()?;
        if !output.status.success() {
            return Err(format!("tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Types text as it is.
    fn text(&self, text: &str) -> Result<(), Failed> {
        self.run(&["send-keys", "-l", text]).map(|_| ())
    }

    /// Presses keys by tmux's names for them.
    fn keys(&self, keys: &[&str]) -> Result<(), Failed> {
        self.run(&[&["send-keys"], keys].concat()).map(|_| ())
    }

    /// A line, entered.
    fn line(&self, text: &str) -> Result<(), Failed> {
        self.text(text)?;
        self.keys(&["Enter"])
    }

    fn screen(&self) -> Result<String, Failed> {
        self.run(&["capture-pane", "-p", "-S", "-200"])
    }

    /// Waits until a line of the screen is exactly this, apart from blanks at its end.
    fn expect(&self, line: &str) -> Result<(), Failed> {
        self.wait(line, |screen| screen.lines().any(|l| l.trim_end() == line))
    }

    /// Enters a line again and again until the screen shows what it should: for what comes in its own time.
    fn repeat(&self, line: &str, what: &str, done: impl Fn(&str) -> bool) -> Result<(), Failed> {
        for _ in 0..40 {
            self.line(line)?;
            std::thread::sleep(Duration::from_millis(300));
            if done(&self.screen()?) {
                return Ok(());
            }
        }
        self.wait(what, done)
    }

    fn wait(&self, what: &str, done: impl Fn(&str) -> bool) -> Result<(), Failed> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let screen = self.screen()?;
            if done(&screen) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not on the screen: {what}\n{screen}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.run(&["kill-server"]);
    }
}

pub fn shell(platform: &str) -> Result<(), Failed> {
    let root = root::debian().map_err(|e| e.to_string())?;
    let caisson = binary::caisson().map_err(|e| e.to_string())?;
    let inside = "env PS1='ready> ' bash --norc --noprofile -i";
    let command = format!("{} --platform {platform} do --root {} -- {inside}; echo left $?; sleep 60", caisson.display(), root.display());
    let t = Tmux::start(platform, &command)?;
    let prompt = |screen: &str| screen.trim_end().ends_with("ready>");
    t.wait("the prompt", prompt)?;
    // line editing: the beginning, the end, erasing, history
    t.text("cho  editedX")?;
    t.keys(&["BSpace", "C-a"])?;
    t.text("e")?;
    t.keys(&["C-e"])?;
    t.line(" line")?;
    t.expect("edited line")?;
    t.keys(&["Up"])?;
    t.line(" again")?;
    t.expect("edited line again")?;
    // it is a terminal, of this size; and it changes with the window
    t.line("tty; stty size; test -t 0 && echo $((6 * 7)) is a tty")?;
    t.expect("/dev/pts/0")?;
    t.expect("40 100")?;
    t.expect("42 is a tty")?;
    t.line("trap 'echo size $(stty size)' WINCH")?;
    t.wait("the prompt after the trap", |s| s.contains("WINCH") && prompt(s))?;
    t.run(&["resize-window", "-x", "90", "-y", "30"])?;
    t.repeat("", "the new size", |s| s.contains("size 30 90"))?;
    // Ctrl-C ends the foreground job, not the shell
    t.line("sh -c 'echo job $((1)); exec sleep 100'; echo status $?")?;
    t.expect("job 1")?;
    t.keys(&["C-c"])?;
    t.wait("^C", |s| s.contains("^C"))?;
    t.line("echo after $?")?;
    t.expect("after 130")?;
    // Ctrl-Z stops it, fg brings it back, Ctrl-C ends it then
    // (no shell's loop: one stopped between vfork and exec holds up its parent, which then is not stopped, on Linux too)
    t.line("perl -e '$SIG{CONT} = sub { print \"gone on\\n\" }; $| = 1; print \"job \", 2, \"\\n\"; sleep 1 while 1'")?;
    t.expect("job 2")?;
    t.keys(&["C-z"])?;
    t.wait("stopped", |s| s.lines().any(|l| l.starts_with("[1]+  Stopped") && l.contains("gone on")))?;
    t.line("jobs | wc -l; fg")?;
    t.expect("gone on")?;
    t.keys(&["C-c"])?;
    t.line("echo then $?")?;
    t.expect("then 130")?;
    // a job in the background that reads is stopped
    t.line("cat &")?;
    t.keys(&["Enter"])?;
    t.repeat("jobs", "background read", |s| s.lines().any(|l| l.contains("Stopped") && l.contains("cat")))?;
    t.line("kill %1; wait; read -r -p 'type: ' x; echo \"got $x\"")?;
    t.wait("the question", |s| s.trim_end().ends_with("type:"))?;
    t.line("some words")?;
    t.expect("got some words")?;
    // end of file leaves the shell, and caisson with its status
    t.line("(exit 5)")?;
    // not before readline has the terminal again: until then the character would be the kernel's
    t.wait("the prompt after (exit 5)", |s| s.contains("(exit 5)") && prompt(s))?;
    t.keys(&["C-d"])?;
    t.expect("left 5")
}
