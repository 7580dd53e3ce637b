#!/usr/bin/env bash
# Fetches the runsc that Debian 13 packages into DIR (default: target/peers), without touching the system's packages, and prints
# the path of its binary. The machine's own Debian source is asked, with another suite.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "${1:-target/peers}"
dir=$(cd "${1:-target/peers}" && pwd)
if [ ! -x "$dir/usr/bin/runsc" ]; then
  apt=$dir/apt
  mkdir -p "$apt/lists/partial" "$apt/archives/partial"
  mirror=$(sed -n 's/^URIs: *\([^ ]*\/debian\)\/* *$/\1/p; s/^deb \(\[[^]]*\] \)*\([^ ]*\/debian\)\/* .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2> /dev/null | head -1) || true
  [ -n "$mirror" ] || { echo "no Debian source found in /etc/apt" >&2; exit 1; }
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/trixie.list"
  options=(-qq -o "Dir::Etc::sourcelist=$apt/trixie.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::Lists=$apt/lists"
    -o "Dir::Cache::archives=$apt/archives" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >&2
  (cd "$apt" && apt-get "${options[@]}" download runsc >&2 && dpkg -x runsc_*.deb "$dir")
fi
echo "$dir/usr/bin/runsc"
