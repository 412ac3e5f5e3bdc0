#!/usr/bin/env bash
# The whole check on a machine with a GPU. No network is needed, but a Python with torch for CUDA,
# setuptools, ninja and the packages of the extras "test" and "bench", and a CUDA toolkit.
#
#   tools/check_gpu.sh [build] [test] [sanitize] [bench]        all of them by default
#
# PYTHON        the interpreter (python3)
# OUT           where everything is written (build/gpu)
# PYTEST_ADDOPTS, SANITIZER_ARGS, BENCH_ARGS    more arguments of pytest, tests/sanitizer_cases.py,
#               bench/run.py, as in SANITIZER_ARGS='--case 3x3* --layout nchw'
#
# A step that fails does not stop the next one. Ends with 1 if any failed; a summary comes last.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
out=${OUT:-build/gpu}
mkdir -p "$out"
out=$(cd "$out" && pwd)
summary=$out/summary.txt
failed=0

# Runs the command of a step, its output into $out/NAME.log, and notes how it went. The last line
# that matches the pattern says more.
step() {
  local name=$1 pattern=$2 start=$SECONDS verdict=ok
  shift 2
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$out/$name.log" || verdict=FAILED failed=1
  printf '%-12s %-7s %5d s  %s\n' "$name" "$verdict" $((SECONDS - start)) \
    "$(grep -E "$pattern" "$out/$name.log" | tail -n 1)" >> "$summary"
}

note() { printf '%-12s %-7s          %s\n' "$1" "$2" "$3" >> "$summary"; }

check_build() {
  # Not -e: what is tested is what users install.
  # Without the variable a build that finds no toolkit leaves the kernels out, and ends well.
  HANDCONV_CUDA=1 step build '^(Successfully|ERROR)' "$python" -m pip install \
    --no-build-isolation --no-deps --force-reinstall --verbose .
}

check_test() {
  # -P: the installed package, not the folder of the same name.
  local pytest=("$python" -P -m pytest -ra --durations=20)
  local workers=$((($(nproc) + 1) / 2))
  # Without a GPU its tests are skipped, and all would seem well.
  step gpu 'Error|no GPU|without' "$python" -P -c "import sys; sys.path.append('tests')
from devices import why_no_cuda; sys.exit(why_no_cuda())"
  step test ' in [0-9.]+s' env OMP_NUM_THREADS=2 "${pytest[@]}" -n "$workers" \
    --ignore=tests/test_cuda.py
  # Alone: how much memory is free, and how long streams are busy, is what these look at.
  step test-cuda ' in [0-9.]+s' "${pytest[@]}" tests/test_cuda.py
}

find_sanitizer() {
  local home
  for home in "" "${CUDA_HOME:-}/bin/" /usr/local/cuda/bin/; do
    command -v "${home}compute-sanitizer" && return
  done
  return 1
}

check_sanitize() {
  local sanitizer tool options
  if ! sanitizer=$(find_sanitizer); then
    note sanitize skipped "no compute-sanitizer in PATH, CUDA_HOME or /usr/local/cuda"
    return
  fi
  for tool in memcheck racecheck initcheck; do
    options=(--tool "$tool" --error-exitcode 9)
    # Races of other libraries are theirs. Initcheck must see everybody's writes.
    [[ $tool == racecheck ]] && options+=(--kernel-regex kns=handconv)
    # shellcheck disable=SC2086 # several words are meant
    step "$tool" 'SUMMARY' "$sanitizer" "${options[@]}" \
      "$python" tests/sanitizer_cases.py ${SANITIZER_ARGS:-}
  done
}

check_bench() {
  local common=(bench/run.py --device cuda --output "$out/bench")
  # shellcheck disable=SC2086 # several words are meant
  step bench '^wrote|rror' "$python" "${common[@]}" --dtype float32 bfloat16 float16 float64 \
    ${BENCH_ARGS:-}
  # shellcheck disable=SC2086
  step bench-tf32 '^wrote|rror' "$python" "${common[@]}" --tf32 ${BENCH_ARGS:-}
}

describe() {
  date
  git describe --always --dirty 2> /dev/null
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null
  "$python" -c 'import sys, torch; print(sys.version.split()[0], torch.__version__, "CUDA", torch.version.cuda)'
}

steps=("$@")
((${#steps[@]})) || steps=(build test sanitize bench)
for name in "${steps[@]}"; do
  [[ $name =~ ^(build|test|sanitize|bench)$ ]] || {
    echo "unknown step '$name': build, test, sanitize, bench" >&2
    exit 2
  }
done
describe > "$summary" 2>&1
for name in "${steps[@]}"; do "check_$name"; done

printf '\n== Summary (logs in %s)\n' "$out"
cat "$summary"
exit $failed
