//! Verbs that are killed at any moment, and verbs that are called at once: whatever happened, `delete --force` leaves nothing, and what
//! is left in between is a container with a state.
//!
//! Each run kills at other moments. The seed is printed; `CAISSON_TEST_SEED` repeats one.

mod common;

use common::remains::Remains;
use common::{Scratch, caisson, command_line, descendants, eventually, finish, kill};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// How often each verb is killed.
const POINTS: u32 = 10;

/// Numbers without a pattern; the same ones for the same seed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let given = std::env::var("CAISSON_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 % 1_000_000_007);
        let seed = given.unwrap_or_else(now);
        // Shown where a test fails, and with --nocapture.
        println!("seed: CAISSON_TEST_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// A place for containers, and everything that could be left of one.
struct Place {
    scratch: Scratch,
    bundle: PathBuf,
    remains: Remains,
}

impl Place {
    fn new(name: &str) -> Place {
        let scratch = Scratch::new();
        let group = format!("caisson-chaos-{}-{name}", std::process::id());
        let bundle = scratch.bundle(&["/bin/sh", "-c", "while :; do sleep 0.2; done"], |config| {
            // A directory above it is removed, too, if it was made for it: without a record nobody knows.
            let below = if name == "damaged" { "" } else { "/c" };
            config["linux"]["cgroupsPath"] = format!("/{group}{below}").into();
            config["mounts"].as_array_mut().expect("mounts").push(json!({
                "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"],
            }));
        });
        std::fs::write(scratch.path("errors"), "").expect("write");
        let remains = Remains::before(&scratch.path(""), &group);
        Place { scratch, bundle, remains }
    }

    fn verb(&self, name: &str) -> Command {
        let mut command = match name {
            "create" => {
                let mut command = self.scratch.verb(&["create", "--bundle"]);
                command.arg(&self.bundle).arg("c");
                command
            }
            "exec" => self.scratch.verb(&["exec", "c", "/bin/sh", "-c", "exit 0"]),
            "exec --detach" => self.scratch.verb(&["exec", "--detach", "c", "/bin/sleep", "1000"]),
            "start" | "delete" => self.scratch.verb(&[name, "c"]),
            "delete --force" => self.scratch.verb(&["delete", "--force", "c"]),
            other => panic!("{other}"),
        };
        // Not a pipe: the application keeps these streams.
        let errors = std::fs::File::options().create(true).append(true).open(self.scratch.path("errors")).expect("a file");
        command.stdout(Stdio::null()).stderr(errors);
        command
    }

    /// What verbs have said so far.
    fn errors(&self) -> String {
        std::fs::read_to_string(self.scratch.path("errors")).unwrap_or_default()
    }

    fn ok(&self, name: &str) {
        let output = finish(self.verb(name).spawn().expect("spawn"));
        assert!(output.status.success(), "{name}: {}: {}", output.status, self.errors());
    }

    /// What must be there before a verb.
    fn prepare(&self, verb: &str) {
        if verb != "create" {
            self.ok("create");
        }
        if verb.starts_with("exec") || verb == "delete --force" {
            self.ok("start");
        }
    }

    /// `delete --force` must succeed, and leave nothing.
    fn clean(&self, after: &str) {
        let output = finish(self.verb("delete --force").spawn().expect("spawn"));
        assert!(output.status.success(), "{after}: {}: {}", output.status, self.errors());
        self.remains.none(after);
    }
}

/// Waits for the moment, and kills the verb, or one of the processes that it has made.
fn kill_at(mut child: Child, moment: Duration, random: &mut Random) -> String {
    let begun = Instant::now();
    let pid = child.id().cast_signed();
    while begun.elapsed() < moment && child.try_wait().expect("wait").is_none() {
        std::hint::spin_loop();
    }
    let below = if random.below(3) == 0 { descendants(pid) } else { Vec::new() };
    let victim = if below.is_empty() { pid } else { below[random.below(below.len() as u64) as usize] };
    let what = format!("{victim} ({}) after {moment:?}", command_line(victim));
    if child.try_wait().expect("wait").is_none() {
        // It may just have ended.
        let _ = Command::new("kill").args(["-9", &victim.to_string()]).stderr(Stdio::null()).status();
    }
    let output = finish(child);
    format!("{what}: {}", output.status)
}

#[test]
fn chaos() {
    // One test after the other: what is left is looked for among all descendants of this process.
    verbs_are_killed_at_random_points();
    callers_come_at_once();
    a_state_that_cannot_be_read_is_removed();
    a_container_survives_those_who_made_it();
}

fn verbs_are_killed_at_random_points() {
    let mut random = Random::new();
    let place = Place::new("killed");
    for verb in ["create", "start", "exec", "exec --detach", "delete --force"] {
        place.prepare(verb);
        let begun = Instant::now();
        place.ok(verb);
        let usual = begun.elapsed();
        place.clean("without being killed");
        for point in 0..POINTS {
            place.prepare(verb);
            let moment = usual.mul_f64(random.below(900) as f64 / 1000.0);
            let how = kill_at(place.verb(verb).spawn().expect("spawn"), moment, &mut random);
            println!("{verb}, point {point}: {how}");
            place.clean(&format!("{verb}, point {point}: {how}"));
        }
    }
}

/// How many of these calls at once succeed.
fn at_once(place: &Place, verb: &str, callers: usize) -> usize {
    let children: Vec<Child> = (0..callers).map(|_| place.verb(verb).spawn().expect("spawn")).collect();
    children.into_iter().map(finish).filter(|output| output.status.success()).count()
}

fn callers_come_at_once() {
    let place = Place::new("at-once");
    for _ in 0..3 {
        assert_eq!(at_once(&place, "create", 4), 1);
        assert_eq!(place.scratch.status("c"), "created");
        assert_eq!(at_once(&place, "start", 4), 1);
        assert_eq!(place.scratch.status("c"), "running");
        assert_eq!(at_once(&place, "exec", 4), 4);
        // Who comes too late finds nothing to delete, which is no error.
        assert_eq!(at_once(&place, "delete --force", 4), 4);
        place.clean("callers at once");
    }
    // One makes what the other deletes: either of them may be first.
    for _ in 0..5 {
        let children = ["create", "delete --force", "create", "delete --force"].map(|verb| place.verb(verb).spawn().expect("spawn"));
        children.into_iter().for_each(|child| drop(finish(child)));
        place.clean("one makes and one deletes");
    }
}

fn a_state_that_cannot_be_read_is_removed() {
    let place = Place::new("damaged");
    for damage in ["", "{", "{\"id\": 7}", "\u{0}\u{0}\u{0}"] {
        place.ok("create");
        place.ok("start");
        std::fs::write(place.scratch.state().join("c/state.json"), damage).expect("write");
        let (code, text) = common::outcome(&mut place.scratch.verb(&["state", "c"]));
        assert!(code == 114 && text.contains("state.json") && text.contains("delete --force"), "{text}");
        // It is there, and no other can take its name.
        assert!(!finish(place.verb("create").spawn().expect("spawn")).status.success());
        place.clean(&format!("a state of {damage:?}"));
    }
}

fn a_container_survives_those_who_made_it() {
    let place = Place::new("survives");
    place.ok("create");
    let state = || {
        let output = place.scratch.verb(&["state", "c"]).output().expect("state");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let created = state();
    place.ok("start");
    // Verbs that are killed do not change what is told of the container.
    let mut random = Random::new();
    for verb in ["start", "exec", "create"] {
        let moment = Duration::from_millis(random.below(40));
        let mut child = place.verb(verb).spawn().expect("spawn");
        std::thread::sleep(moment);
        let _ = child.kill();
        finish(child);
        let mut now = state();
        assert_eq!(now["status"], "running", "{verb} after {moment:?}");
        now["status"] = created["status"].clone();
        assert_eq!(now, created, "{verb} after {moment:?}");
    }
    // The end of the container is told for as long as nobody deletes it.
    kill(state()["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid"));
    assert!(eventually(10, || state()["status"] == "stopped"));
    assert_eq!(state()["pid"], 0);
    let listed = caisson().arg("--root").arg(place.scratch.state()).args(["list", "-q"]).output().expect("list");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "c\n");
    place.clean("the end");
}
