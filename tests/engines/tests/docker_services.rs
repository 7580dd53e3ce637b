//! Services as Docker runs them: images built with Dockerfiles whose steps go through the runtime, entry points that change the user,
//! volumes, published ports, health checks, restarts.

use super::carried;
use anyhow::{Context, Result, ensure};
use caisson_tests_engines::{Docker, eventually, services};

/// With every runtime.
pub const TESTS: &[(&str, super::Test)] = &[("services", services), ("compose", compose)];

/// One after the other: loading the image they are built from takes longest.
fn services(d: &Docker) -> Result<()> {
    d.ok(&["load", "--quiet", "--input", &services::base(&d.machine)?.display().to_string()])?;
    redis(d).context("redis")?;
    nginx(d).context("nginx")?;
    python(d).context("python")?;
    let archive = d.machine.path("services.tar").display().to_string();
    d.ok(&["save", "--output", &archive, "redis", "nginx", "python"])?;
    // Beside each other: most of it is unpacking and waiting.
    std::thread::scope(|scope| {
        let podman = scope.spawn(|| carried::to_podman(d.runtime == "caisson", &archive).context("under podman"));
        carried::to_cri(d.runtime, &archive).context("under the CRI")?;
        podman.join().ok().context("a thread died")?
    })
}

fn redis(d: &Docker) -> Result<()> {
    d.build("redis")?;
    let run = |name: &str| d.ok(&["run", "-d", "--name", name, "-v", "kept:/data", "--memory", "200m", "redis"]);
    run("one")?;
    d.wait_for("one", ".State.Health.Status", "healthy")?;
    ensure!(d.ok(&["exec", "one", "redis-cli", "set", "key", "value"])? == "OK\n", "set");
    // The entry point has given up root; the data are the user's.
    let owner = d.ok(&["exec", "one", "sh", "-c", "stat -c %U /proc/1 /data; cat /proc/1/comm"])?;
    ensure!(owner == "redis\nredis\nredis-server\n", "{owner}");
    let count = "for i in $(seq 2000); do echo set key$i $i; done | redis-cli --pipe | tail -1";
    ensure!(d.ok(&["exec", "one", "sh", "-c", count])?.contains("replies: 2000"), "many keys");
    d.ok(&["restart", "--time", "60", "one"])?;
    d.wait_for("one", ".State.Health.Status", "healthy")?;
    ensure!(d.ok(&["exec", "one", "redis-cli", "get", "key1234"])? == "1234\n", "after a restart");
    d.ok(&["stop", "--time", "60", "one"])?;
    let log = d.run(&["logs", "one"])?;
    ensure!(log.text().contains("User requested shutdown") && log.text().contains("DB saved on disk"), "{log}");
    ensure!(d.inspect("one", ".State.ExitCode")? == "0", "exit status");
    d.ok(&["rm", "one"])?;
    // Another container with the same volume, without the entry point's help, and with nothing else to write to.
    let flags = ["run", "-d", "--name", "two", "-v", "kept:/data", "--read-only", "--tmpfs", "/tmp", "--user", "redis"];
    d.ok(&[&flags[..], &["redis"]].concat())?;
    d.wait_for("two", ".State.Health.Status", "healthy")?;
    ensure!(d.ok(&["exec", "two", "redis-cli", "get", "key"])? == "value\n", "from the volume");
    ensure!(d.run(&["exec", "two", "touch", "/x"])?.status != 0, "the root is writable");
    d.ok(&["rm", "-f", "two"])?;
    Ok(())
}

fn nginx(d: &Docker) -> Result<()> {
    d.build("nginx")?;
    d.ok(&["run", "-d", "--name", "one", "-p", "127.0.0.1:18080:80", "-e", "GREETING=hello", "nginx"])?;
    ensure!(services::fetched(&d.machine, "127.0.0.1:18080")? == "hello\n", "through the published port");
    let address = d.inspect("one", ".NetworkSettings.IPAddress")?;
    ensure!(services::fetched(&d.machine, &format!("{address}:80"))? == "hello\n", "at its address");
    // Its log is a pipe of the engine's, reached through links to /dev/stdout.
    eventually(30, || d.ok(&["logs", "one"]).ok()?.contains("GET / HTTP/1.0\" 200").then_some(())).context("the access log")?;
    let users = d.ok(&["exec", "one", "sh", "-c", "for p in /proc/[0-9]*; do echo $(stat -c %U $p) $(cat $p/comm); done"])?;
    ensure!(users.contains("root nginx") && users.contains("www-data nginx"), "{users}");
    d.ok(&["exec", "one", "sh", "-c", "echo changed > /docroot/index.html; nginx -s reload"])?;
    let changed = || (services::fetched(&d.machine, "127.0.0.1:18080").ok()? == "changed\n").then_some(());
    eventually(30, changed).context("after a reload")?;
    d.ok(&["pause", "one"])?;
    d.ok(&["unpause", "one"])?;
    ensure!(services::fetched(&d.machine, "127.0.0.1:18080")? == "changed\n", "after a pause");
    // The image's own signal: nginx ends well, after its last request.
    d.ok(&["stop", "--time", "60", "one"])?;
    ensure!(d.inspect("one", ".State.ExitCode")? == "0", "exit status");
    // A directory of the host is served as it is, by an unprivileged user on the usual port.
    let site = d.machine.path("site");
    std::fs::create_dir_all(&site)?;
    std::fs::write(site.join("index.html"), "mounted\n")?;
    let volume = format!("{}:/docroot:ro", site.display());
    let tmp = ["--tmpfs", "/var/lib/nginx:uid=33", "--tmpfs", "/run:uid=33", "--user", "www-data"];
    let name = ["run", "-d", "--name", "two", "--init", "-p", "18081:80", "-v", &volume];
    d.ok(&[&name[..], &tmp, &["nginx"]].concat())?;
    let body = services::fetched(&d.machine, "127.0.0.1:18081").with_context(|| format!("{:?}", d.run(&["logs", "two"])))?;
    ensure!(body == "mounted\n", "{body}");
    std::fs::write(site.join("index.html"), "changed outside\n")?;
    ensure!(services::fetched(&d.machine, "127.0.0.1:18081")? == "changed outside\n", "the host's change");
    d.ok(&["rm", "-f", "one", "two"])?;
    Ok(())
}

fn python(d: &Docker) -> Result<()> {
    d.build("python")?;
    d.ok(&["run", "-d", "--name", "one", "-p", "18082:8000", "--restart", "always", "python"])?;
    ensure!(services::fetched(&d.machine, "127.0.0.1:18082")? == "app Linux visit 1\n", "the first visit");
    let visits: Vec<String> = (0..5).map(|_| services::fetched(&d.machine, "127.0.0.1:18082")).collect::<Result<_>>()?;
    ensure!(visits.last().is_some_and(|last| last == "app Linux visit 6\n"), "{visits:?}");
    let top = d.ok(&["exec", "one", "python3", "-c", "import os; print(os.getpid() > 1, os.environ['HOME'])"])?;
    ensure!(top == "True /home/app\n", "{top}");
    // Ended by somebody inside, it comes again: with its files, and the port still leads to it.
    d.ok(&["exec", "one", "sh", "-c", "kill -TERM 1"])?;
    d.wait_for("one", ".RestartCount", "1")?;
    ensure!(services::fetched(&d.machine, "127.0.0.1:18082")? == "app Linux visit 7\n", "after its restart");
    d.ok(&["stop", "--time", "60", "one"])?;
    ensure!(d.inspect("one", ".State.ExitCode")? == "3", "exit status");
    ensure!(d.ok(&["logs", "one"])? == "ready\nbye\nready\nbye\n", "{}", d.ok(&["logs", "one"])?);
    d.ok(&["rm", "one"])?;
    Ok(())
}

/// Two services in a network of their own, which find each other by name.
fn compose(d: &Docker) -> Result<()> {
    let compose = d.machine.run(&["sh", "-c", "command -v docker-compose || true"])?.text();
    ensure!(!compose.is_empty(), "docker-compose is not installed; ./test installs it");
    let file = format!(
        "version: '2.4'\nservices:\n  server:\n    image: {image}\n    command: nc -ll -p 5000 -e echo hello\n    healthcheck:\n      \
         test: ['CMD', 'true']\n      interval: 1s\n  client:\n    image: {image}\n    depends_on:\n      server:\n        \
         condition: service_healthy\n    command: >-\n      sh -c 'for i in 1 2 3 4 5 6 7 8 9; do nc -w 5 server 5000 && break; sleep 1; done; cat /data/f'\n    \
         volumes: ['./data:/data:ro']\n",
        image = caisson_tests_engines::image::BUSYBOX
    );
    let dir = d.machine.path("project");
    std::fs::create_dir_all(dir.join("data"))?;
    std::fs::write(dir.join("data/f"), "from the volume\n")?;
    std::fs::write(dir.join("docker-compose.yml"), file)?;
    let run = |args: &[&str]| {
        let dir = dir.display().to_string();
        let words =
            ["env", "DOCKER_HOST=unix:///run/docker.sock", "COMPOSE_ANSI=never", "docker-compose", "--project-directory", &dir, "--file"];
        let file = format!("{dir}/docker-compose.yml");
        d.machine.run(&[&words[..], &[&file, "--project-name", "project"], args].concat())
    };
    let output = run(&["up", "--detach"])?;
    ensure!(output.status == 0, "{output}");
    let client = d.ok(&["ps", "-aq", "--filter", "label=com.docker.compose.service=client"])?;
    d.wait_for(client.trim(), ".State.Status", "exited")?;
    let log = run(&["logs", "--no-color", "client"])?;
    ensure!(log.text().contains("hello\n") && log.text().contains("from the volume\n"), "{log}");
    let output = run(&["down", "--timeout", "1"])?;
    ensure!(output.status == 0, "{output}");
    ensure!(d.ok(&["ps", "-aq"])?.is_empty(), "containers are left");
    Ok(())
}
