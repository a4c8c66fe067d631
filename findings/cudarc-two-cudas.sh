#!/usr/bin/env bash
# Two crates that name different CUDA versions of cudarc build each alone; together they give 1361 errors, none of the cause.
#
# Versions: cudarc 0.19.10; seen with cargo 1.95.0. No CUDA is needed.
# One would expect: cargo adds features up, so that two of them together are at least what either is; or, as there can be
#   only one version, a message that says so and names the two. cudarc's own build.rs has such messages for
#   dynamic-linking with static-linking ("Both ... features are active"), and its README says "one of" of the versions.
# What happens: every type and constant is bound once per version named, and rustc tells each one that is there twice. The
#   nearest to a cause is one in the midst of them: `CUDA_VERSION` is defined multiple times. CUDARC_CUDA_VERSION, the
#   variable that chooses the version, does not replace a feature but is a second one beside it. Seen on 2026-11-27
#   (default features):
#     one (cuda-12040) alone: built
#     two (cuda-13000) alone: built
#     one and two: 1361 errors, lines that name a feature: 0
#     one alone, CUDARC_CUDA_VERSION=12040: built
#     one alone, CUDARC_CUDA_VERSION=13000: 1361 errors, lines that name a feature: 0
# Who is hit: whose dependencies each name a version, and who sets the variable to get rid of one. A library that
#   names one should let it be left out; cargo tree -e features -i cudarc finds who named what.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never
unset CUDARC_CUDA_VERSION RUSTFLAGS

cd "$tmp"
printf '[workspace]\nresolver = "2"\nmembers = ["one", "two"]\n' > Cargo.toml
for crate in one:12040 two:13000; do
    mkdir -p "${crate%:*}/src"
    touch "${crate%:*}/src/lib.rs"
    cat > "${crate%:*}/Cargo.toml" <<TOML
[package]
name = "${crate%:*}"
version = "0.0.0"
edition = "2021"

[dependencies]
cudarc = { version = "=0.19.10", features = ["cuda-${crate#*:}"] }
half = "=2.7.1"
libloading = "=0.9.1"
TOML
done
cargo fetch --quiet
failed=0
see() { # what, what must be printed (a pattern), command
    local got
    if "${@:3}" > "$tmp/log" 2>&1; then
        got=built
    else
        got="$(grep -c '^error\[' "$tmp/log") errors"
        got+=", lines that name a feature: $(grep -cE 'cuda-1[0-9]{4}' "$tmp/log" || true)"
    fi
    echo "$1: $got"
    # shellcheck disable=SC2053
    [[ $got == $2 ]] || { echo "CHANGED: expected $2"; failed=1; }
}
many='[1-9][0-9][0-9][0-9] errors, lines that name a feature: 0'
see "one (cuda-12040) alone" built cargo check -p one
see "two (cuda-13000) alone" built cargo check -p two
see "one and two" "$many" cargo check
see "one alone, CUDARC_CUDA_VERSION=12040" built env CUDARC_CUDA_VERSION=12040 cargo check -p one
see "one alone, CUDARC_CUDA_VERSION=13000" "$many" env CUDARC_CUDA_VERSION=13000 cargo check -p one
exit $failed
