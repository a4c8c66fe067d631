#!/usr/bin/env bash
# pip install nvidia-cuda-nvcc==13.0.88 installs half of another toolkit: its PTX is 9.5, and machine code it cannot make.
#
# Versions: nvidia-cuda-nvcc 13.0.88; what pip adds to it is pinned to what was newest, 13.5.37. x86-64 Linux, no GPU.
# One would expect: the nvcc of 13.0 with its own parts, which compiles, or a complaint of pip that parts do not fit.
# What happens: the wheel asks for nvidia-nvvm, nvidia-cuda-crt and nvidia-cuda-runtime without a version. nvcc and ptxas
#   are those of 13.0 then, cicc (in nvvm) and the headers those of 13.5; pip check is content, nvcc --version says 13.0.
#   cicc writes PTX that the ptxas beside it is too old for (as a driver of 13.0 would be; not run here), and nvcc -ptx
#   does so without a word. Nor does the wheel ask for nvidia-cuda-cccl, without which cuda_fp16.h does not compile. With
#   all of it of 13.0 nvcc compiles, but links no program: it looks for libcudart in lib64, and the wheels have lib. Seen
#   on 2026-11-27:
#     13.0.88 and what pip adds: crt 13.5.37, runtime 13.5.37, nvvm 13.5.37; pip check: No broken requirements found.
#     13.0.88 and what pip adds, nvcc --version: release 13.0, V13.0.88
#     13.0.88 and what pip adds, nvcc -ptx: .version 9.5
#     13.0.88 and what pip adds, nvcc -cubin: Unsupported .version 9.5; current version is '9.0'
#     13.0.88 and what pip adds, cuda_fp16.h: fatal error: nv/target: No such file or directory
#     13.0.88 and all of 13.0, nvcc -ptx: .version 9.0
#     13.0.88 and all of 13.0, nvcc -cubin: silent
#     13.0.88 and all of 13.0, cuda_fp16.h: silent
#     13.0.88 and all of 13.0, a program: /usr/bin/ld: cannot find -lcudart_static: No such file or directory
#     13.0.88 and all of 13.0, a program, -L lib: silent
# Who is hit: who pins nvcc alone, for an older driver above all: a build that goes by PTX passes, with PTX that
#   such a driver is too old for. Name all five, each ==13.0.*: nvcc, crt, runtime, cccl of nvidia-cuda-, and nvidia-nvvm. (Of 13.5 all are
#   13.5.*, but cccl 13.3.5.*.)
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export PIP_CACHE_DIR="$tmp/cache" LC_ALL=C
unset NVCC_APPEND_FLAGS NVCC_PREPEND_FLAGS
install() {
    python3 -m venv "$tmp/$1"
    "$tmp/$1/bin/pip" install -q --disable-pip-version-check "${@:2}"
    ln -s "$("$tmp/$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13" "$tmp/$1/cu13"
}
# The constraints only fix in time what pip takes of its own: the newest.
printf '%s==13.5.37\n' nvidia-cuda-crt nvidia-cuda-runtime nvidia-nvvm > "$tmp/newest"
install adds -c "$tmp/newest" nvidia-cuda-nvcc==13.0.88
install all nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 \
    nvidia-cuda-cccl==13.0.85

cd "$tmp"
echo '__global__ void twice(float *x) { x[threadIdx.x] *= 2.0f; }' > twice.cu
echo '#include <cuda_fp16.h>' | cat - twice.cu > half.cu
echo 'int main() { return 0; }' | cat twice.cu - > program.cu
failed=0
see() { # what, what was seen, what must be seen (a pattern)
    echo "13.0.88 and $1: $2"
    # shellcheck disable=SC2053
    [[ $2 == $3 ]] || { echo "CHANGED: expected $3"; failed=1; }
}
say() { # the line of a command's output that has the pattern, "silent" if there is no output
    local out
    out=$("${@:2}" 2>&1) || true
    grep -oE -m1 "$1" <<< "$out" || { [[ -z $out ]] && echo silent; } || echo "$out"
}
version() { "$tmp/adds/bin/python" -c "from importlib.metadata import version; print(version('nvidia-$1'))"; }
what="what pip adds"
came="crt $(version cuda-crt), runtime $(version cuda-runtime), nvvm $(version nvvm)"
see "$what" "$came; pip check: $(adds/bin/pip check)" \
    "crt 13.5.37, runtime 13.5.37, nvvm 13.5.37; pip check: No broken requirements found."
see "$what, nvcc --version" "$(say 'release.*' adds/cu13/bin/nvcc --version)" "release 13.0, V13.0.88"
for pick in adds all; do
    nvcc=$pick/cu13/bin/nvcc
    [[ $pick == adds ]] || what="all of 13.0"
    out=$("$nvcc" -ptx -arch=sm_80 twice.cu -o twice.ptx 2>&1)
    see "$what, nvcc -ptx" "$out$(grep '^\.version' twice.ptx)" ".version 9.$([[ $pick == adds ]] && echo 5 || echo 0)"
    see "$what, nvcc -cubin" "$(say 'Unsupported .version.*' "$nvcc" -cubin -arch=sm_80 twice.cu -o twice.cubin)" \
        "$([[ $pick == adds ]] && echo "Unsupported .version 9.5; current version is '9.0'" || echo silent)"
    see "$what, cuda_fp16.h" "$(say 'fatal error: .*' "$nvcc" -ptx -arch=sm_80 half.cu -o half.ptx)" \
        "$([[ $pick == adds ]] && echo "fatal error: nv/target: No such file*" || echo silent)"
done
see "$what, a program" "$(say '.*cannot find -lcudart_static.*' "$nvcc" -arch=sm_80 program.cu -o program)" \
    "*cannot find -lcudart_static*"
see "$what, a program, -L lib" "$(say '.*error.*' "$nvcc" -arch=sm_80 -L all/cu13/lib program.cu -o program)" silent
exit $failed
