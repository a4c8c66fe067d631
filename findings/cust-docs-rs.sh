#!/usr/bin/env bash
# cust does not link, once it was checked with DOCS_RS set, until what cargo kept of its build script is removed.
#
# Versions: cust 0.3.2, find_cuda_helper 0.2.0, cargo of the machine (1.95.0), Linux. CUDA need not be there: an empty folder is.
# One would expect: a build script whose result depends on a variable tells cargo so (rerun-if-env-changed), as find_cuda_helper
#   does for CUDA_PATH and CUDA_LIBRARY_PATH: unset DOCS_RS, and the next build has it run again.
# What happens: with DOCS_RS, which docs.rs sets, and which others set to leave CUDA out where documentation or lints are all that
#   is asked for, find_cuda_helper looks for no CUDA and names no library. It does not tell cargo of the variable, so that a build
#   without it, of the same features into the same folder, takes what the build script said before, and does not link libcuda.
#   Seen on 2026-11-30, as lines of cust's build script that link something:
#     without DOCS_RS: some
#     with it, then without: 0
# Who is hit: whoever has cargo check or clippy, with DOCS_RS, before a build; it ends with "undefined symbol: cuMemAlloc_v2".
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TERM_COLOR=never
unset RUSTFLAGS DOCS_RS
export CUDA_LIBRARY_PATH="$tmp/cuda"
mkdir -p "$tmp/see/src" "$CUDA_LIBRARY_PATH/lib64"
cd "$tmp/see"

cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.1.0"
edition = "2021"

[dependencies]
cust = "=0.3.2"
find_cuda_helper = "=0.2.0"
TOML
: > src/lib.rs

# links TARGET: how many lines of cust's build script, in that folder, have something linked.
links() { cat "$1"/debug/build/cust-*/output | grep -c '^cargo:rustc-link' || true; }

cargo check --quiet --target-dir "$tmp/without"
DOCS_RS=1 cargo check --quiet --target-dir "$tmp/both"
cargo check --quiet --target-dir "$tmp/both"

without=$(links "$tmp/without") both=$(links "$tmp/both")
echo "without DOCS_RS: $without"
echo "with it, then without: $both"
[ "$without" -gt 0 ] && [ "$both" -eq 0 ]
