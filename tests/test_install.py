"""What the build decides before it compiles: which torch, which compiler, and how it refuses; and
what an import says without its result.

The hooks run as pip runs them: in a process of a fresh virtual environment, whose packages build
isolation hides. Its torch, compiler and ninja are stubs, so nothing is downloaded or compiled.
"""

import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[1]

# What pip's build isolation does: the packages of the installing environment leave sys.path.
HIDE_SITE_PACKAGES = """
import sys, sysconfig
sys.path.remove(sysconfig.get_path("purelib"))
"""

STUB_CPP_EXTENSION = """
from setuptools import Extension as CppExtension
from setuptools.command.build_ext import build_ext as BuildExtension
CUDA_HOME = None
"""
STUB_TORCH = """
class version:
    cuda = None
"""

CALL_HOOK = """
import json, sys
from build_backend import hooks
print(json.dumps(getattr(hooks, sys.argv[1])(*sys.argv[2:])))
"""


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def compiler_stub(folder: Path, macros: str) -> Path:
    """A "compiler" whose preprocessor gives `macros` for "__GNUC__ __clang_major__"."""
    return executable(folder / "stub-c++", f"echo {macros}")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the checks; what it does to sys.path, PATH and CXX is undone afterwards."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.delenv("CXX", raising=False)
    return importlib.import_module("build_backend.environment")


class Installer:
    """A fresh virtual environment, and the hooks called in it under build isolation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = ROOT
        venv.create(folder / "venv", symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        executable(self.python.with_name("ninja"), "exit 0")
        self.isolated = folder / "isolated"
        self.isolated.mkdir()
        (self.isolated / "sitecustomize.py").write_text(HIDE_SITE_PACKAGES)
        site_packages = Path(setuptools.__file__).parents[1]
        for part in (*site_packages.glob("setuptools*"), site_packages / "_distutils_hack"):
            (self.isolated / part.name).symlink_to(part)
        self.compiler = compiler_stub(folder, "13 __clang_major__")

    def install_torch(self, version: str) -> None:
        (site_packages,) = self.folder.glob("venv/lib/python*/site-packages")
        package = site_packages / "torch" / "utils"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package.parent / "__init__.py").write_text(STUB_TORCH)
        (package / "cpp_extension.py").write_text(STUB_CPP_EXTENSION)
        information = site_packages / f"torch-{version}.dist-info"
        information.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        (information / "METADATA").write_text(metadata)

    def run(self, hook: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, "-B", "-c", CALL_HOOK, hook, *arguments],
            cwd=self.project,
            env={
                "PATH": os.environ["PATH"],
                "CXX": str(self.compiler),
                "PYTHONPATH": str(self.isolated),
                "PYTHONNOUSERSITE": "1",
            },
            capture_output=True,
            text=True,
        )

    def result(self, hook: str, *arguments: Path) -> object:
        """What the hook returns; it must succeed."""
        completed = self.run(hook, *arguments)
        assert completed.returncode == 0, completed.stderr
        return json.loads(completed.stdout.splitlines()[-1])

    def refusal(self, hook: str, *arguments: Path) -> str:
        """The one line that the hook fails with."""
        completed = self.run(hook, *arguments)
        assert completed.returncode == 1
        assert completed.stdout == ""
        (line,) = completed.stderr.splitlines()
        return line


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    return Installer(tmp_path)


REQUIRES_HOOKS = ("get_requires_for_build_wheel", "get_requires_for_build_editable")


@pytest.mark.parametrize("hook", REQUIRES_HOOKS)
def test_installed_torch_is_not_required_again(installer: Installer, hook: str) -> None:
    installer.install_torch("2.12.1+cu130")
    assert installer.result(hook) == []


@pytest.mark.parametrize("hook", REQUIRES_HOOKS)
def test_without_torch_the_tested_release_is_required(installer: Installer, hook: str) -> None:
    assert installer.result(hook) == ["torch==2.13.0"]


def test_wheel_requires_the_minor_release_it_was_built_against(installer: Installer) -> None:
    installer.install_torch("2.12.1+cu130")
    metadata_folder = installer.folder / "metadata"
    metadata_folder.mkdir()
    name = installer.result("prepare_metadata_for_build_wheel", metadata_folder)
    lines = (metadata_folder / str(name) / "METADATA").read_text().splitlines()
    required = [line for line in lines if line.startswith("Requires-Dist:") and "extra" not in line]
    assert required == ["Requires-Dist: torch==2.12.*"]


def test_old_torch_is_refused(installer: Installer) -> None:
    installer.install_torch("2.10.2+cpu")
    assert installer.refusal("get_requires_for_build_wheel") == (
        "handconv: torch 2.10.2+cpu is too old; handconv needs torch >= 2.11, "
        "try: pip install torch==2.13.0"
    )


def test_building_without_torch_is_refused(installer: Installer) -> None:
    """As with --no-build-isolation, where pip does not ask what the build requires."""
    line = installer.refusal("prepare_metadata_for_build_wheel", installer.folder / "metadata")
    assert line == (
        "handconv: no torch found; handconv needs torch >= 2.11, try: pip install torch==2.13.0"
    )


def test_missing_compiler_is_refused_before_torch_is_fetched(installer: Installer) -> None:
    installer.compiler.unlink()
    assert installer.refusal("get_requires_for_build_wheel") == (
        f"handconv: CXX={installer.compiler} is not found; "
        "install GCC >= 12, for example: apt-get install g++"
    )


def test_source_distribution_is_complete_and_needs_no_torch(installer: Installer) -> None:
    folders = ("build_backend", "csrc", "handconv", "tests", "bench", "examples")
    files = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
    installer.project = installer.folder / "project"
    produced = shutil.ignore_patterns("*.so", "__pycache__", "results")
    for name in folders:
        shutil.copytree(ROOT / name, installer.project / name, ignore=produced)
    for name in files:
        shutil.copy(ROOT / name, installer.project)
    wanted = {
        str(path.relative_to(installer.project))
        for path in installer.project.rglob("*")
        if path.is_file()
    }

    assert installer.result("get_requires_for_build_sdist") == []
    archive = str(installer.result("build_sdist", installer.folder))
    with tarfile.open(installer.folder / archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert wanted <= names


def test_compiler_that_is_new_enough(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", f"env {compiler_stub(tmp_path, '12 __clang_major__')}")
    assert environment.check_compiler() == os.environ["CXX"]


@pytest.mark.parametrize(
    ("macros", "reason"),
    [
        ("11 __clang_major__", "is GCC 11; install GCC >= 12 and name it in CXX"),
        ("4 19", "is clang 19; install GCC >= 12 and name it in CXX"),
        ("nonsense", "does not work as a C++ compiler; install GCC >= 12"),
    ],
)
def test_compilers_that_are_refused(
    environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    macros: str,
    reason: str,
) -> None:
    command = str(compiler_stub(tmp_path, macros))
    monkeypatch.setenv("CXX", command)
    with pytest.raises(SystemExit) as stopped:
        environment.check_compiler()
    assert stopped.value.code == f"handconv: {command} {reason}"


def test_compiler_on_the_path_is_found(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executable(tmp_path / "g++", "echo 14 __clang_major__")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.check_compiler() == "g++"


def no_compiler(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    monkeypatch.setenv("PATH", str(empty))
    environment.check_compiler()


def no_ninja(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(empty))
    environment.check_ninja()


def no_headers(environment: ModuleType, monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(empty))
    environment.check_python_headers()


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (
            no_compiler,
            "handconv: no C++ compiler found; install GCC >= 12, for example: apt-get install g++",
        ),
        (no_ninja, "handconv: no ninja found; try: pip install ninja"),
        (
            no_headers,
            "handconv: no Python.h found; install Python's headers, "
            "for example: apt-get install python3-dev",
        ),
    ],
)
def test_what_is_missing_is_named(
    environment: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    attempt: Callable[[ModuleType, pytest.MonkeyPatch, Path], None],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        attempt(environment, monkeypatch, tmp_path)
    assert stopped.value.code == message


def test_ninja_of_an_environment_that_is_not_activated_is_used(
    environment: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    system = executable(tmp_path / "system" / "ninja", "exit 0")
    beside_python = executable(tmp_path / "venv" / "ninja", "exit 0")
    monkeypatch.setenv("PATH", str(system.parent))
    monkeypatch.setattr(environment.sysconfig, "get_path", lambda name: str(beside_python.parent))
    environment.check_ninja()
    assert shutil.which("ninja") == str(beside_python)


def test_headers_have_the_same_names_wherever_torch_is(
    environment: ModuleType, tmp_path: Path
) -> None:
    """So that an install after another compiles nothing."""
    link = tmp_path / "objects" / "torch"
    named = []
    for parent in ("first", "second"):
        headers = tmp_path / parent / "torch" / "include"
        headers.mkdir(parents=True)
        (headers / "torch.h").write_text(parent)
        folders = environment.through_link([str(headers), "/usr/cuda"], headers.parent, link)
        named.append(folders)
        assert (Path(folders[0]) / "torch.h").read_text() == parent
    assert named[0] == named[1] == [str(link / "include"), "/usr/cuda"]


# CUDA.


@pytest.fixture
def toolkit(tmp_path: Path) -> str:
    """The folder of a CUDA 13.0 toolkit, as far as the build asks for it."""
    nvcc = "echo Cuda compilation tools, release 13.0, V13.0.88"
    return str(executable(tmp_path / "cuda" / "bin" / "nvcc", nvcc).parents[1])


def test_nvcc_says_where_its_toolkit_is(
    environment: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the nvcc on PATH is a script that calls that of the toolkit."""
    script = executable(tmp_path / "bin" / "nvcc", "echo '#$ TOP=/opt/cuda-13/bin/..' >&2")
    monkeypatch.setenv("PATH", str(script.parent) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("CUDA_HOME", "/as/given")
    environment.find_cuda_home()
    assert os.environ["CUDA_HOME"] == "/as/given"
    monkeypatch.delenv("CUDA_HOME")
    environment.find_cuda_home()
    assert os.environ["CUDA_HOME"] == "/opt/cuda-13"


@pytest.mark.parametrize(
    ("wanted", "torch_cuda", "has_toolkit", "built"),
    [
        ("", "13.0", True, True),
        ("", "13.2", True, True),
        ("1", "13.0", True, True),
        ("0", "13.0", True, False),
        ("0", "12.8", True, False),
        ("", None, True, False),
        ("", "13.0", False, False),
    ],
)
def test_cuda_is_built_where_torch_and_toolkit_have_it(
    environment: ModuleType,
    toolkit: str,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    torch_cuda: str | None,
    has_toolkit: bool,
    built: bool,
) -> None:
    monkeypatch.setenv("HANDCONV_CUDA", wanted)
    assert environment.check_cuda(torch_cuda, toolkit if has_toolkit else None) is built


@pytest.mark.parametrize(
    ("wanted", "torch_cuda", "has_toolkit", "words"),
    [
        ("", "12.8", True, "torch is built with CUDA 12.8, but the toolkit"),
        ("1", "12.8", True, "install CUDA 12.8 and name it in CUDA_HOME"),
        ("1", None, True, "there is no torch with CUDA"),
        ("1", "13.0", False, "there is no CUDA toolkit"),
        ("yes", "13.0", True, "HANDCONV_CUDA should be 0 or 1, but is 'yes'"),
    ],
)
def test_cuda_that_cannot_be_built_is_refused_in_a_line(
    environment: ModuleType,
    toolkit: str,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    torch_cuda: str | None,
    has_toolkit: bool,
    words: str,
) -> None:
    monkeypatch.setenv("HANDCONV_CUDA", wanted)
    with pytest.raises(SystemExit, match=re.escape(words)) as refusal:
        environment.check_cuda(torch_cuda, toolkit if has_toolkit else None)
    assert "\n" not in str(refusal.value)


def import_error(folder: Path, compiled: bytes | None) -> str:
    """What is said where a copy of the package is imported whose compiled part is `compiled`."""
    package = folder / "handconv"
    package.mkdir()
    for source in (ROOT / "handconv").glob("*.py"):
        shutil.copy(source, package)
    if compiled is not None:
        (package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(compiled)
    command = [sys.executable, "-c", "import handconv"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr.splitlines()[-1]


def test_a_missing_compiled_part_is_named(tmp_path: Path) -> None:
    assert "handconv's compiled part is missing" in import_error(tmp_path, None)


def test_a_broken_compiled_part_is_not_called_missing(tmp_path: Path) -> None:
    """Though the loader's words have its path in them."""
    message = import_error(tmp_path, b"nothing that a loader would load")
    assert "/handconv/_C" in message
    assert "missing" not in message
