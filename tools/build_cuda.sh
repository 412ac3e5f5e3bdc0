#!/usr/bin/env bash
# Builds handconv with CUDA on a machine without a GPU and imports it, in a virtual environment of
# its own: tools/build_cuda.sh [FOLDER]. Needs nvcc 13 and Python 3.10 or newer (PYTHON names
# another than python3.12); fetches torch with CUDA, some gigabytes, unless FOLDER has it already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$(realpath -m "${1:-build/cuda-environment}")
torch=${TORCH:-2.11.0}
if [[ ! -x $folder/bin/python ]]; then
  "${PYTHON:-python3.12}" -m venv "$folder"
  "$folder/bin/pip" install --quiet "torch==$torch" setuptools ninja numpy
fi
HANDCONV_CUDA=1 "$folder/bin/pip" install --no-build-isolation --no-deps .

# Not from here, where the package would be the source folder.
cd "$(mktemp -d)"
"$folder/bin/python" - <<'PYTHON'
import torch

import handconv

assert handconv._C.build_info()["cuda"]
cuda = [kernel for kernel in handconv.kernels() if kernel.name.startswith("cuda.")]
print(f"torch {torch.__version__}: {len(cuda)} CUDA kernels in the table")
x = torch.empty(8, 64, 56, 56, device="meta", dtype=torch.float16)
w = torch.empty(64, 1, 7, 7, device="meta", dtype=torch.float16)
print(handconv.explain(x, w, padding=3, groups=64, device="cuda"))
PYTHON
