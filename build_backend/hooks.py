"""PEP 517 and PEP 660 hooks: setuptools' own, except for the decision about torch.

Listing torch in build-system.requires would make pip install another one into the build
environment, perhaps of another version than the one that will load the extension.
"""

from typing import Any

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

from build_backend import environment

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    # Before pip fetches anything large, say that it would be in vain.
    environment.check_compiler()
    environment.check_python_headers()
    return environment.build_requirements()


get_requires_for_build_editable = get_requires_for_build_wheel


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    return []
