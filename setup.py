"""Compiles csrc/ into handconv._C. All other facts about the package stand in pyproject.toml."""

import os
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

from setuptools import setup

from build_backend import environment

ROOT = Path(__file__).resolve().parent
OWN_HEADERS = str(ROOT / "csrc")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

# These come after Python's own flags and win over them. -O2: kernels say themselves what to unroll
# and inline, and -O3 would double the time to compile. No -march=native: one build runs on every
# processor of its architecture and chooses its kernels at run time. -g0: debug information makes
# the build a fifth slower and the library thirty times larger. -std is torch's choice:
# BuildExtension adds the standard that its headers need.
# -fopenmp is for compiling alone: at::parallel_for, a template, runs on one thread without it. The
# OpenMP library is the one that torch brings, so that there is one pool of threads.
# GCC 12 calls variables of its own AVX-512 intrinsics maybe uninitialized (GCC bug 105593).
CXX_FLAGS = [
    "-O2",
    "-g0",
    "-fopenmp",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-maybe-uninitialized",
]
NVCC_FLAGS = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fvisibility=hidden"]
# Machine code for Ampere and Hopper, whose binaries run on the processors between them, and PTX for
# what comes after.
CUDA_ARCHITECTURES = "8.0;9.0+PTX"


def sources(with_cuda: bool) -> list[str]:
    found = set(ROOT.glob("csrc/**/*.cpp"))
    if with_cuda:
        found |= set(ROOT.glob("csrc/cuda/*.cu"))
    else:
        found.discard(ROOT / "csrc" / "torch" / "gemm_library.cpp")
    return sorted(str(path.relative_to(ROOT)) for path in found)


def extension_arguments(torch_version: str) -> dict[str, Any]:
    """The arguments of setup() that need torch to be importable."""
    environment.find_cuda_home()
    # torch warns on import where there is no NumPy, which neither the build nor handconv needs.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension

    with_cuda = environment.check_cuda(torch.version.cuda, cpp_extension.CUDA_HOME)
    if with_cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)

    class BuildHandconv(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            # Objects stay here between installs, editable ones too (setuptools would put those in a
            # temporary folder), so that ninja compiles only what changed.
            tag = f"{sys.implementation.cache_tag}-torch{torch_version}"
            self.build_temp = str(ROOT / "build" / "objects" / (tag + "-cuda" * with_cuda))

        def build_extensions(self) -> None:
            torch_folder = Path(torch.__file__).parent
            for extension in self.extensions:
                extension.include_dirs = environment.through_link(
                    extension.include_dirs, torch_folder, Path(self.build_temp) / "torch"
                )
                # Warnings are for our own code: a folder that is named by -isystem too is exempt
                # from them, and ninja does not look at its files.
                extension.extra_compile_args["cxx"] += [
                    flag
                    for folder in extension.include_dirs
                    if folder != OWN_HEADERS
                    for flag in ("-isystem", folder)
                ]
            super().build_extensions()

    make = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    extension = make(
        name="handconv._C",
        sources=sources(with_cuda),
        include_dirs=[OWN_HEADERS],
        define_macros=[
            ("HANDCONV_VERSION", f'"{VERSION}"'),
            ("HANDCONV_WITH_CUDA", str(int(with_cuda))),
        ],
        extra_compile_args={"cxx": CXX_FLAGS.copy(), "nvcc": NVCC_FLAGS},
    )
    return {
        "install_requires": environment.runtime_requirements(torch_version),
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildHandconv},
    }


def main() -> None:
    if "sdist" in sys.argv:
        setup(install_requires=["torch"])
        return
    torch_version = environment.check_torch(environment.find_torch())
    os.environ["CXX"] = environment.check_compiler()
    environment.check_python_headers()
    environment.check_ninja()
    setup(**extension_arguments(torch_version))


if __name__ == "__main__":
    main()
