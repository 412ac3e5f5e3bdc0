"""What the machine offers for a build: torch, a C++ compiler, Python's headers and ninja.

Every check that fails ends the build with one line that says what to install.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

TESTED_TORCH = "2.13.0"
OLDEST_TORCH = (2, 11)
# clang knows neither the target pragma of the kernels nor, before 15, _Float16.
OLDEST_GCC = 12


def stop(message: str) -> NoReturn:
    raise SystemExit(f"handconv: {message}")


def installing_environment_path() -> list[str]:
    """The sys.path of the environment that pip installs into.

    Build isolation hides it from this process by PYTHONPATH and PYTHONNOUSERSITE; a child process
    without them sees it, virtual environments with access to the system's packages included.
    """
    hiding = {"PYTHONPATH", "PYTHONNOUSERSITE"}
    child = subprocess.run(
        [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"],
        env={name: value for name, value in os.environ.items() if name not in hiding},
        check=True,
        capture_output=True,
        text=True,
    )
    path: list[str] = json.loads(child.stdout)
    return path


def find_torch() -> str | None:
    """The version of the torch to build against, made importable; None if there is none.

    A torch that is not importable yet but installed where pip installs is made so by appending that
    environment to sys.path: whatever the build environment has itself still comes first.
    """
    if importlib.util.find_spec("torch") is None:
        path = installing_environment_path()
        if any(Path(folder, "torch", "__init__.py").is_file() for folder in path):
            sys.path.extend(folder for folder in path if folder not in sys.path)
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def torch_release(version: str) -> tuple[int, int]:
    """The minor release of a version of torch: (2, 13) for "2.13.0+cpu"."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def check_torch(version: str | None) -> str:
    """Return `version`, or stop if there is no torch or it is too old."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    advice = f"handconv needs torch >= {oldest}, try: pip install torch=={TESTED_TORCH}"
    if version is None:
        stop(f"no torch found; {advice}")
    if torch_release(version) < OLDEST_TORCH:
        stop(f"torch {version} is too old; {advice}")
    return version


def build_requirements() -> list[str]:
    """What the build needs beside build-system.requires: nothing where torch is installed."""
    version = find_torch()
    if version is None:
        return [f"torch=={TESTED_TORCH}"]
    check_torch(version)
    return []


def runtime_requirements(version: str) -> list[str]:
    """The torch that a wheel runs with: the minor release that it was built against."""
    major, minor = torch_release(version)
    return [f"torch=={major}.{minor}.*"]


def compiler_version(command: list[str]) -> tuple[str, int]:
    """The family ("GCC" or "clang") and the major version of a C++ compiler."""
    preprocessed = subprocess.run(
        [*command, "-E", "-P", "-x", "c++", "-"],
        input="__GNUC__ __clang_major__",
        check=True,
        capture_output=True,
        text=True,
    )
    gcc, clang = preprocessed.stdout.split()
    return ("clang", int(clang)) if clang.isdigit() else ("GCC", int(gcc))


def check_compiler() -> str:
    """The C++ compiler's command, or stop if there is none or it is too old."""
    command = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++")), None)
    if command is None or shutil.which(shlex.split(command)[0]) is None:
        missing = f"CXX={command} is not found" if command else "no C++ compiler found"
        stop(f"{missing}; install GCC >= {OLDEST_GCC}, for example: apt-get install g++")
    try:
        family, version = compiler_version(shlex.split(command))
    except (subprocess.CalledProcessError, ValueError):
        stop(f"{command} does not work as a C++ compiler; install GCC >= {OLDEST_GCC}")
    if family != "GCC" or version < OLDEST_GCC:
        stop(f"{command} is {family} {version}; install GCC >= {OLDEST_GCC} and name it in CXX")
    return command


def find_cuda_home() -> None:
    """Name in CUDA_HOME the toolkit's folder, as the nvcc on PATH says it, unless it is named.

    torch reads the variable. By itself it takes the folder in which it finds nvcc for the
    toolkit's, which may hold no more than a link to nvcc or a script that calls it.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME"):
        return
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    plan = subprocess.run(command, capture_output=True, text=True)
    top = re.search(r"\bTOP=(.+)", plan.stderr)
    if top is not None:
        os.environ["CUDA_HOME"] = os.path.normpath(top[1].strip())


def toolkit_version(cuda_home: str) -> str:
    """The release of the CUDA toolkit in a folder, such as "13.0"."""
    nvcc = Path(cuda_home, "bin", "nvcc")
    output = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    release = re.search(r"release (\d+\.\d+)", output)
    if release is None:
        stop(f"{nvcc} does not say its version")
    return release[1]


def check_cuda(torch_cuda: str | None, cuda_home: str | None) -> bool:
    """Whether to build the CUDA kernels: where torch has CUDA and `cuda_home` has a toolkit.

    No GPU is asked for: a container is often built without one. HANDCONV_CUDA=0 leaves CUDA out,
    HANDCONV_CUDA=1 stops where something is missing.
    """
    wanted = os.environ.get("HANDCONV_CUDA", "")
    if wanted not in ("", "0", "1"):
        stop(f"HANDCONV_CUDA should be 0 or 1, but is {wanted!r}")
    if wanted == "0":
        return False
    if torch_cuda is None or cuda_home is None:
        if wanted == "1":
            missing = "torch with CUDA" if torch_cuda is None else "CUDA toolkit (CUDA_HOME)"
            stop(f"HANDCONV_CUDA=1, but there is no {missing}; install it, or set HANDCONV_CUDA=0")
        return False
    toolkit = toolkit_version(cuda_home)
    if toolkit.split(".")[0] != torch_cuda.split(".")[0]:
        stop(
            f"torch is built with CUDA {torch_cuda}, but the toolkit in {cuda_home} is {toolkit}; "
            f"install CUDA {torch_cuda} and name it in CUDA_HOME, or set HANDCONV_CUDA=0"
        )
    return True


def through_link(folders: list[str], target: Path, link: Path) -> list[str]:
    """`folders`, with those inside `target` named by way of `link`, which is made to lead there.

    pip unpacks the torch of an isolated build into a folder of another name each time. Commands
    that named it would differ from one install to the next, and ninja would compile everything.
    """
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target, target_is_directory=True)
    return [
        str(link / Path(folder).relative_to(target))
        if Path(folder).is_relative_to(target)
        else folder
        for folder in folders
    ]


def check_python_headers() -> None:
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        stop(
            "no Python.h found; install Python's headers, for example: apt-get install python3-dev"
        )


def check_ninja() -> None:
    """Put the ninja that was installed with this Python, if there is one, first on PATH.

    pip does not need the environment to be activated, and a change of ninja recompiles everything.
    """
    scripts = sysconfig.get_path("scripts")
    if shutil.which("ninja", path=scripts):
        os.environ["PATH"] = scripts + os.pathsep + os.environ["PATH"]
    elif shutil.which("ninja") is None:
        stop("no ninja found; try: pip install ninja")
