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


def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cpp"))


def extension_arguments(torch_version: str) -> dict[str, Any]:
    """The arguments of setup() that need torch to be importable."""
    # torch warns on import where there is no NumPy, which neither the build nor handconv needs.
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

    class BuildHandconv(BuildExtension):
        def finalize_options(self) -> None:
            super().finalize_options()
            # Objects stay here between installs, editable ones too (setuptools would put those in a
            # temporary folder), so that ninja compiles only what changed.
            tag = f"{sys.implementation.cache_tag}-torch{torch_version}"
            self.build_temp = str(ROOT / "build" / "objects" / tag)

    # Warnings are for our own code: a folder that is named by -isystem too is exempt from them.
    torch_headers = [flag for folder in include_paths() for flag in ("-isystem", folder)]
    extension = CppExtension(
        name="handconv._C",
        sources=sources(),
        include_dirs=[str(ROOT / "csrc")],
        define_macros=[("HANDCONV_VERSION", f'"{VERSION}"')],
        extra_compile_args={"cxx": CXX_FLAGS + torch_headers},
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
