"""What `--suite` measures: every layer in float32, and in the other dtypes the kinds of layers in
which the vendor's library differs most from itself."""

from __future__ import annotations

from cases import LAYOUTS, Case
from families import family_of

FAMILIES_OF_OTHER_DTYPES = (
    "dense 3x3, 28x28 and above",
    "dense 3x3, 14x14 to 27x27",
    "pointwise",
    "depthwise 3x3",
    "depthwise 5x5, 7x7, dilated",
)

# Where F.conv2d takes seconds for heavier ones.
FLOPS_OF_OTHER_DTYPES = 600_000_000


def includes(case: Case, dtype: str) -> bool:
    """Whether the suite measures that layer in that dtype."""
    if dtype == "float32":
        return True
    light = case.N == 1 and case.flops <= FLOPS_OF_OTHER_DTYPES
    return light and family_of(case) in FAMILIES_OF_OTHER_DTYPES


def layouts_of(case: Case) -> tuple[str, ...]:
    """The layouts in which a layer occurs: samples become groups only where they are contiguous."""
    return LAYOUTS[:1] if family_of(case) == "per sample" else LAYOUTS
