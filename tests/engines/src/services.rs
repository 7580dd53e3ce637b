//! Images of real services on Debian: redis, nginx, Python. The base image is made from packages; the others are built from it by the
//! engine itself, with Dockerfiles and entry points like those of the images that everybody pulls.

use crate::image::{self, Config};
use crate::{Machine, eventually};
use anyhow::{Context, Result};
use caisson_tests_support::root;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

/// The base image.
pub const BASE: &str = "localhost/services:latest";
const PACKAGES: [&str; 5] = ["nginx-light", "redis-server", "python3", "python3-pip", "python3-venv"];

/// The archive of [`BASE`].
pub fn base(machine: &Machine) -> Result<PathBuf> {
    let root = root::debian_image(&PACKAGES)?;
    let config = Config { name: BASE, command: vec!["bash"], entrypoint: Vec::new(), user: "", directory: "/" };
    image::archive(&machine.path(""), &root, &config)
}

/// The directory of what an image is built from: `redis`, `nginx` or `python`.
pub fn context(machine: &Machine, name: &str) -> Result<PathBuf> {
    let dir = machine.path(&format!("build-{name}"));
    fs::create_dir_all(&dir)?;
    let files = match name {
        "redis" => REDIS,
        "nginx" => NGINX,
        _ => PYTHON,
    };
    for (file, text) in files {
        fs::write(dir.join(file), text.replace("BASE", BASE))?;
    }
    Ok(dir)
}

/// Redis gives up its privileges in the entry point, and keeps its data in a volume.
const REDIS: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM BASE\nRUN mkdir -p /data && chown redis:redis /data && redis-server --version > /version\nVOLUME /data\nWORKDIR /data\n\
         COPY entrypoint.sh /usr/local/bin/\nRUN chmod +x /usr/local/bin/entrypoint.sh\nENTRYPOINT [\"entrypoint.sh\"]\nEXPOSE 6379\n\
         HEALTHCHECK --interval=1s --timeout=20s --retries=10 CMD redis-cli ping | grep PONG\nCMD [\"redis-server\", \"--save\", \"3600 1\"]\n",
    ),
    (
        "entrypoint.sh",
        "#!/bin/sh\nset -e\nif [ \"${1#-}\" != \"$1\" ]; then set -- redis-server \"$@\"; fi\n\
         if [ \"$1\" = redis-server ] && [ \"$(id -u)\" = 0 ]; then\n  find . \\! -user redis -exec chown redis '{}' +\n\
         \x20 exec setpriv --reuid redis --regid redis --clear-groups -- \"$0\" \"$@\"\nfi\numask 0077\nexec \"$@\"\n",
    ),
];

/// nginx starts as root, and its workers run as www-data; scripts prepare it.
const NGINX: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM BASE\nCOPY site.conf /etc/nginx/sites-available/default\nCOPY entrypoint.sh /\n\
         RUN chmod +x /entrypoint.sh && mkdir -p /docroot && echo built > /docroot/index.html && ln -sf /dev/stdout /var/log/nginx/access.log \
         && ln -sf /dev/stderr /var/log/nginx/error.log && nginx -t\n\
         ENTRYPOINT [\"/entrypoint.sh\"]\nEXPOSE 80\nSTOPSIGNAL SIGQUIT\nCMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
    ),
    ("site.conf", "server { listen 80 default_server; listen [::]:80 default_server; root /docroot; }\n"),
    ("entrypoint.sh", "#!/bin/sh\nset -e\n[ -z \"$GREETING\" ] || echo \"$GREETING\" > /docroot/index.html\nexec \"$@\"\n"),
];

/// A program of somebody's own, installed with pip, which runs as a user by name.
const PYTHON: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM BASE\nRUN useradd --create-home app\nWORKDIR /home/app/src\nCOPY setup.py greeter.py ./\nRUN chown -R app: .\nUSER app\n\
         RUN python3 -m venv --system-site-packages ../venv && ../venv/bin/pip install --no-index --no-build-isolation --no-cache-dir .\n\
         ENV PATH=/home/app/venv/bin:/usr/bin:/bin PYTHONUNBUFFERED=1\nEXPOSE 8000\nCMD [\"greeter\"]\n",
    ),
    (
        "setup.py",
        "from setuptools import setup\nsetup(name='greeter', version='1.0', py_modules=['greeter'],\n\
         \x20     entry_points={'console_scripts': ['greeter=greeter:main']})\n",
    ),
    (
        "greeter.py",
        r#"import getpass, http.server, signal, sqlite3, subprocess, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with sqlite3.connect('/tmp/visits.db') as db:
            db.execute('create table if not exists visits (path text)')
            db.execute('insert into visits values (?)', (self.path,))
            count = db.execute('select count(*) from visits').fetchone()[0]
        kernel = subprocess.run(['uname', '-s'], capture_output=True, text=True).stdout.strip()
        body = f'{getpass.getuser()} {kernel} visit {count}\n'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

def main():
    server = http.server.ThreadingHTTPServer(('', 8000), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print('ready')
    server.serve_forever()
    print('bye')
    sys.exit(3)
"#,
    ),
];

/// What an HTTP server answers to a request for `/`: the body.
pub fn fetch(machine: &Machine, address: SocketAddr) -> Result<String> {
    let mut stream: TcpStream = machine.connect_to(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
    anyhow::ensure!(head.contains(" 200 "), "{head}");
    Ok(body.to_owned())
}

/// The same, once the server is up.
pub fn fetched(machine: &Machine, address: &str) -> Result<String> {
    let address: SocketAddr = address.parse().with_context(|| address.to_owned())?;
    let mut last = None;
    let found = eventually(30, || match fetch(machine, address) {
        Ok(body) => Some(body),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    found.with_context(|| format!("no answer at {address}: {last:?}"))
}
