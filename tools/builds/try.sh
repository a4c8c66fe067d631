#!/usr/bin/env bash
# Does onekv build on the machines that people have?
set -euo pipefail

usage() {
    cat <<'END'
Usage: tools/builds/try.sh [SITUATION...]

Makes each situation in a temporary folder, builds onekv there and prints a line; fails where one is not as it should be.
nvcc is a stand-in that finds the sources' headers and writes empty files.

  newer      nvcc of a CUDA that nobody knows yet comes first in PATH
  old        the only nvcc is too old
  cards      nvcc knows some of the cards only
  blank      folders of the sources, the target and the toolkit have blanks in their names
  features   the kernels are compiled once for all sets of features
  checkouts  two checkouts build into one target folder
  example    the T5 example's kernels, which include the library's headers
  wrapped    NVCC and CXX start with ccache; NVCC is a name in PATH
  flags      NVCC_PREPEND_FLAGS names a host compiler; others would spoil the kernels
  versions   another crate names another version of CUDA's interface for cudarc
  compiler   there is no C++ compiler
  pip        there is no pip
  package    the packaged crate alone, without and with CUDA, and its documentation
  alone      each package that is built by itself declares what it needs of its dependencies

Environment: XTASK, `cargo xtask`'s program [default: it is built]; RUSTFLAGS.
END
}

all=(newer old cards blank features checkouts example wrapped flags versions compiler pip package alone)
asked=()
for word in "$@"; do
    case $word in
    -h | --help) usage && exit 0 ;;
    *)
        [[ " ${all[*]} " == *" $word "* ]] || { echo "error: situation is $word, allowed: ${all[*]}" >&2 && exit 2; }
        asked+=("$word")
        ;;
    esac
done
[ ${#asked[@]} -gt 0 ] || asked=("${all[@]}")

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TRY_CXX=$(command -v g++) || { echo "error: g++ was not found, which the situations take away or bring" >&2 && exit 2; }
export TRY_CXX
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TRY_LOG=$work/calls
: >"$TRY_LOG"

# A machine with Rust and a C compiler, and nothing else in PATH but what a situation adds.
bare=$work/bare cxx=$work/cxx
mkdir "$bare" "$cxx"
for tool in cargo rustc rustdoc cc gcc ld ar bash sh env cat git; do
    ln -s "$(command -v $tool)" "$bare/$tool"
done
ln -s "$(command -v g++)" "$cxx/g++"
ln -s g++ "$cxx/c++"

# stand_in FOLDER RELEASE [CODE...]: an nvcc of that release, which knows these cards.
stand_in() {
    mkdir -p "$1"
    printf '#!/bin/sh\nTRY_RELEASE=%s TRY_CODES="%s" exec "%s/tools/builds/nvcc" "$@"\n' "$2" "${*:3}" "$root" >"$1/nvcc"
    chmod +x "$1/nvcc"
}

# What most situations build with.
fake=$work/fake
stand_in "$fake" 13.0

# checkout FOLDER: the files of this tree that git knows or would.
checkout() {
    mkdir -p "$1"
    git -C "$root" ls-files -z --cached --others --exclude-standard |
        (cd "$root" && while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done) |
        tar -C "$root" --null -T - -cf - | tar -C "$1" -xf -
}

tree=$work/tree
checkout "$tree"

# in_tree FOLDER NAME=VALUE... -- COMMAND...: with that environment and little else; its output in $work/output.
in_tree() {
    local folder=$1 environment=()
    shift
    while [ "$1" != -- ]; do
        environment+=("$1")
        shift
    done
    shift
    (cd "$folder" && env -i HOME="$HOME" ${CARGO_HOME:+CARGO_HOME="$CARGO_HOME"} ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} \
        ${RUSTFLAGS:+RUSTFLAGS="$RUSTFLAGS"} TRY_CXX="$TRY_CXX" TRY_LOG="$TRY_LOG" CARGO_TARGET_DIR="$work/target" \
        PATH="$bare:$cxx" "${environment[@]}" "$@") >"$work/output" 2>&1
}

# What `cargo xtask` runs, in the checkout that CARGO_MANIFEST_DIR says.
[ -n "${XTASK:-}" ] || (cd "$root" && cargo build --quiet --package xtask)
xtask=${XTASK:-${CARGO_TARGET_DIR:-$root/target}/debug/xtask}

check=(cargo check --features cuda --locked)
failed=()

# right WHAT: the line of a situation that is as it should be.
right() { echo "right: $1"; }

# wrong WHAT: the line of one that is not, with what was said.
wrong() {
    echo "WRONG: $1"
    tail -n 25 "$work/output" | cut -c -400 | sed 's/^/    /'
    failed+=("$1")
}

# builds WHAT FOLDER NAME=VALUE... -- COMMAND...
builds() {
    local what=$1
    shift
    if in_tree "$@"; then right "$what"; else wrong "$what"; fi
}

# refused WHAT TEXT FOLDER NAME=VALUE... -- COMMAND...: with TEXT in one line, and no backtrace.
refused() {
    local what=$1 text=$2
    shift 2
    if ! in_tree "$@" && grep -qF -- "$text" "$work/output" && ! grep -q 'panicked at' "$work/output"; then
        right "$what: $(grep -F -m 1 -- "$text" "$work/output" | cut -c -150)"
    else
        wrong "$what, refused with: $text"
    fi
}

# calls SOURCE: how often the stand-in compiled it.
calls() { grep -c "cuda/$1" "$TRY_LOG" || true; }

newer() {
    stand_in "$work/newer" 14.9
    builds "nvcc of CUDA 14.9 first in PATH" "$tree" PATH="$work/newer:$bare:$cxx" -- "${check[@]}"
}

old() {
    local place
    for place in /usr/local/cuda /opt/cuda /usr/lib/cuda; do
        if [ -e "$place/bin/nvcc" ]; then
            echo "not tried: only an old toolkit, as this machine has one in $place"
            return
        fi
    done
    stand_in "$work/old" 11.8
    stand_in "$work/behind" 12.4
    refused "the only nvcc is of CUDA 11.8" "needs nvcc of CUDA 12.4 or newer: $work/old/nvcc is 11.8" \
        "$tree" PATH="$work/old:$bare:$cxx" -- "${check[@]}"
    refused "NVCC is of CUDA 11.8" "$work/old/nvcc is 11.8, allowed: 12.4 or newer" \
        "$tree" NVCC="$work/old/nvcc" -- "${check[@]}"
    builds "nvcc of CUDA 11.8 in PATH, and 12.4 behind it" "$tree" PATH="$work/old:$work/behind:$bare:$cxx" -- "${check[@]}"
    refused "no nvcc" "needs nvcc of CUDA 12.4 or newer: none was found" "$tree" -- "${check[@]}"
}

cards() {
    stand_in "$work/cards" 12.4 80 86 89 90
    if in_tree "$tree" NVCC="$work/cards/nvcc" -- "${check[@]}" &&
        grep -q 'nvcc 12.4 knows no 100, 120' "$work/output" && ! tail -n 1 "$TRY_LOG" | grep -q sm_1; then
        right "nvcc 12.4: cards that it does not know are left out and named"
    else
        wrong "nvcc 12.4: cards that it does not know are left out and named"
    fi
    refused "nvcc 12.4 is asked for such a card" "ONEKV_CUDA_ARCHS has \`100\`, allowed with nvcc 12.4: 80, 86, 89, 90, or ptx" \
        "$tree" NVCC="$work/cards/nvcc" ONEKV_CUDA_ARCHS=90,100 -- "${check[@]}"
    refused "a card older than the kernels" 'ONEKV_CUDA_ARCHS has `75`' \
        "$tree" NVCC="$fake/nvcc" ONEKV_CUDA_ARCHS=75 -- "${check[@]}"
}

blank() {
    local folder="$work/a folder" before
    checkout "$folder/one kv"
    mkdir -p "$folder/cu da/bin"
    cp "$fake/nvcc" "$folder/cu da/bin/nvcc"
    # With what others have compiled of the dependencies, as in all situations.
    [ ! -e "$work/target" ] || cp -a "$work/target" "$folder/tar get"
    local set=(CUDA_HOME="$folder/cu da" CARGO_TARGET_DIR="$folder/tar get")
    builds "blanks in the names of all folders" "$folder/one kv" "${set[@]}" -- "${check[@]}"
    before=$(calls combine.cu)
    touch "$folder/one kv/build.rs"
    builds "the same again" "$folder/one kv" "${set[@]}" -- "${check[@]}"
    [ "$(calls combine.cu)" = "$before" ] || wrong "nothing changed, and kernels were compiled again"
}

features() {
    local before
    echo "// changed" >>"$tree/cuda/attention/combine.cuh"
    builds "kernels that changed" "$tree" NVCC="$fake/nvcc" -- "${check[@]}"
    before=$(calls combine.cu)
    builds "the same with another feature" "$tree" NVCC="$fake/nvcc" -- "${check[@]}" --features tracing
    [ "$(calls combine.cu)" = "$before" ] || wrong "its kernels were compiled again"
    builds "the same with other flags" "$tree" NVCC="$fake/nvcc" NVCC_APPEND_FLAGS=-lineinfo -- "${check[@]}" --features tracing
    [ "$(calls combine.cu)" -gt "$before" ] || wrong "it got kernels of other flags"
}

checkouts() {
    local folder=$work/checkouts name before
    local set=(NVCC="$fake/nvcc")
    for name in first second; do
        checkout "$folder/$name"
        echo "// of the $name" >>"$folder/$name/cuda/attention/combine.cuh"
    done
    # Nothing is newer than what was built for the other.
    for name in first second first; do
        before=$(calls combine.cu)
        builds "two checkouts, one target folder: the $name" "$folder/$name" "${set[@]}" -- "${check[@]}"
        [ "$(calls combine.cu)" -gt "$before" ] || wrong "it got the kernels of the other"
    done
    mv "$folder/first" "$folder/moved"
    builds "a checkout that was moved" "$folder/moved" "${set[@]}" -- "${check[@]}"
}

example() {
    local folder=$work/example before
    local check=(cargo check --package t5 --features cuda --locked)
    checkout "$folder"
    mkdir -p "$folder/target/cuda-toolkit/bin"
    cp "$fake/nvcc" "$folder/target/cuda-toolkit/bin/nvcc"
    builds "T5, with the nvcc of \`cargo xtask setup\`" "$folder" -- "${check[@]}"
    before=$(calls encode.cu)
    echo "// changed" >>"$folder/cuda/attention/convert.cuh"
    builds "T5, when a header that it includes has changed" "$folder" -- "${check[@]}"
    [ "$(calls encode.cu)" -gt "$before" ] || wrong "T5 kept kernels of the old header"
    before=$(calls encode.cu)
    echo "// changed" >>"$folder/cuda/attention/tile.cuh"
    builds "T5, when another header has" "$folder" -- "${check[@]}"
    [ "$(calls encode.cu)" = "$before" ] || wrong "T5 compiled kernels that do not include it"
}

wrapped() {
    local wrapper=$work/wrapper
    mkdir "$wrapper"
    printf '#!/bin/sh\nexec "$@"\n' >"$wrapper/ccache"
    chmod +x "$wrapper/ccache"
    builds "NVCC is ccache nvcc, CXX is ccache g++" "$tree" PATH="$fake:$wrapper:$bare:$cxx" NVCC="ccache nvcc" CXX="ccache g++" -- "${check[@]}"
    builds "NVCC is a name in PATH" "$tree" PATH="$fake:$bare:$cxx" NVCC=nvcc -- "${check[@]}"
    refused "NVCC is not there" "NVCC: cannot run /nowhere/nvcc" "$tree" NVCC=/nowhere/nvcc -- "${check[@]}"
    refused "NVCC is something else" "NVCC: cat --version names no release of CUDA" "$tree" NVCC=cat -- "${check[@]}"
}

flags() {
    builds "NVCC_PREPEND_FLAGS names the host compiler" "$tree" NVCC="$fake/nvcc" NVCC_PREPEND_FLAGS="-ccbin=$cxx/g++" -- "${check[@]}"
    if grep -q -- '-ccbin' <(tail -n 1 "$TRY_LOG"); then wrong "another host compiler stands beside it"; fi
    refused "flags that serialise Hopper's products" "NVCC_APPEND_FLAGS has --Ofast-compile=min" \
        "$tree" NVCC="$fake/nvcc" NVCC_APPEND_FLAGS="-lineinfo --Ofast-compile=min" -- "${check[@]}"
    refused "flags that ptxas tells of" "NVCC_APPEND_FLAGS has -Xptxas, NVCC_APPEND_FLAGS has -O0, allowed: flags that" \
        "$tree" NVCC="$fake/nvcc" NVCC_APPEND_FLAGS="-Xptxas -O0" -- "${check[@]}"
}

versions() {
    local other=$work/other
    mkdir -p "$other/src"
    : >"$other/src/lib.rs"
    cat >"$other/Cargo.toml" <<END
[package]
name = "other"
edition = "2024"

[dependencies]
onekv = { path = "$tree", default-features = false, features = ["cuda"] }
cudarc = { version = "0.19", default-features = false, features = ["cuda-12020"] }
END
    builds "another crate names CUDA 12.2 for cudarc" "$other" NVCC="$fake/nvcc" -- cargo check
    refused "CUDARC_CUDA_VERSION names it" "CUDARC_CUDA_VERSION is 12020" \
        "$tree" NVCC="$fake/nvcc" CUDARC_CUDA_VERSION=12020 -- "${check[@]}"
}

compiler() {
    refused "no C++ compiler" "nvcc needs a C++ compiler: CXX is not set, which means" \
        "$tree" PATH="$bare" NVCC="$fake/nvcc" -- "${check[@]}"
    refused "a C++ compiler that is not there" 'CXX names `nowhere++`, which does not run' \
        "$tree" CXX=nowhere++ NVCC="$fake/nvcc" -- "${check[@]}"
    refused "no C++ compiler, for the tests" "apt-get install g++" \
        "$tree" PATH="$bare" CARGO_MANIFEST_DIR="$tree/xtask" -- "$xtask" test
}

pip() {
    refused "no pip" "apt-get install python3-pip" \
        "$tree" CARGO_MANIFEST_DIR="$tree/xtask" -- "$xtask" setup
}

package() {
    local alone=$work/alone crate
    in_tree "$tree" -- cargo package --package onekv --no-verify --allow-dirty || wrong "cargo package"
    mkdir "$alone"
    tar -C "$alone" -xzf "$work"/target/package/onekv-*.crate
    crate=$(echo "$alone"/onekv-*)
    builds "the packaged crate, without CUDA" "$crate" -- cargo check
    builds "the packaged crate, with CUDA" "$crate" NVCC="$fake/nvcc" -- cargo check --features cuda
    builds "its documentation, as docs.rs makes it" "$crate" DOCS_RS=1 -- cargo doc --no-deps --features cuda
}

alone() {
    local package
    for package in t5 onekv-c ptxsim-driver xtask; do
        builds "$package alone" "$tree" -- cargo check --package $package --locked
    done
}

for situation in "${asked[@]}"; do
    $situation
done
[ ${#failed[@]} -eq 0 ] || { echo "${#failed[@]} wrong" && exit 1; }
