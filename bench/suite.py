"""What `--suite` measures: every layer in float32, the lighter ones in the other dtypes too."""

from __future__ import annotations

from cases import LAYOUTS, Case
from families import family_of

# Heavier layers take F.conv2d seconds a call in the other dtypes.
FLOPS_OF_OTHER_DTYPES = 600_000_000


def includes(case: Case, dtype: str) -> bool:
    """Whether the suite measures that layer in that dtype."""
    return dtype == "float32" or (case.N == 1 and case.flops <= FLOPS_OF_OTHER_DTYPES)


def layouts_of(case: Case) -> tuple[str, ...]:
    """The layouts in which a layer occurs: samples become groups only where they are contiguous."""
    return LAYOUTS[:1] if family_of(case) == "per sample" else LAYOUTS
