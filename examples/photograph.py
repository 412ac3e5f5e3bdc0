"""The lessons of `handconv.reference`, on a photograph.

    python examples/photograph.py                     # writes photograph.png
    python examples/photograph.py --output edges.svg  # or any format that matplotlib writes

Needs matplotlib, which ships the photograph (Grace Hopper, US Navy, public domain).
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # draws into files: no window, no display

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.cbook import get_sample_data
from matplotlib.figure import Figure
from torch import Tensor

import handconv

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
DIAGONAL = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
EDGE_FILTERS = torch.stack([SOBEL, SOBEL.T]).unsqueeze(1)  # (2, 1, 3, 3): along x, along y
SCALE = 8


def load_photograph() -> Tensor:
    """(1, 3, 600, 512), float32 in 0..1."""
    with get_sample_data("grace_hopper.jpg") as file:
        pixels = plt.imread(file, format="jpg")
    return torch.tensor(pixels).permute(2, 0, 1).unsqueeze(0) / 255


def gradient(photograph: Tensor, dilation: int = 1) -> Tensor:
    """How the brightness changes along x and along y, over 2 * dilation pixels: (1, 2, OH, OW)."""
    brightness = photograph.mean(dim=1, keepdim=True)
    return handconv.conv2d(brightness, EDGE_FILTERS, dilation=dilation)


def strength(gradient: Tensor) -> Tensor:
    """The length of the gradient, with the strongest twentieth of the pixels at 1 or more."""
    length = gradient.norm(dim=1, keepdim=True)
    return length / length.quantile(0.95)


def relief(photograph: Tensor) -> Tensor:
    """Each channel under a filter of its own: red along x, green along y, blue across both."""
    filters = torch.stack([SOBEL, SOBEL.T, DIAGONAL]).unsqueeze(1)  # (3, 1, 3, 3)
    return 0.5 + handconv.conv2d(photograph, filters, groups=3)


def shrink(photograph: Tensor) -> Tensor:
    """The mean of every block of SCALE x SCALE pixels: a stride as large as the kernel."""
    mean = torch.full((3, 1, SCALE, SCALE), 1 / SCALE**2)
    return handconv.conv2d(photograph, mean, stride=SCALE, groups=3)


def grow(thumbnail: Tensor) -> Tensor:
    """Bilinear interpolation: every pixel spread out as a tent that reaches its neighbours."""
    slope = (torch.arange(SCALE) + 0.5) / SCALE
    tent = torch.cat([slope, slope.flip(0)])
    kernels = torch.outer(tent, tent).expand(3, 1, -1, -1)
    return handconv.conv_transpose2d(thumbnail, kernels, stride=SCALE, padding=SCALE // 2, groups=3)


def there_and_back(gradient: Tensor) -> Tensor:
    """The gradient taken back to the pixels that it came from: K.T @ (K @ x), grey for zero."""
    back = handconv.conv_transpose2d(gradient, EDGE_FILTERS)
    return 0.5 + 0.5 * back / back.abs().quantile(0.98)


def draw() -> Figure:
    photograph = load_photograph()
    slopes = gradient(photograph)
    thumbnail = shrink(photograph)
    pictures = [
        ("The photograph", "x", photograph),
        ("Edges: two filters", "y = conv2d(x, w)", strength(slopes)),
        ("Dilated", "conv2d(x, w, dilation=6)", strength(gradient(photograph, dilation=6))),
        ("Groups: a filter per channel", "conv2d(x, w, groups=3)", relief(photograph)),
        ("Strided: 75 x 64 pixels", "z = conv2d(x, w, stride=8)", thumbnail),
        ("Transposed: 600 x 512 again", "conv_transpose2d(z, w, stride=8)", grow(thumbnail)),
        ("The edge filters transposed", "conv_transpose2d(y, w)", there_and_back(slopes)),
    ]
    matrix = handconv.kernel_matrix(EDGE_FILTERS, (8, 8))

    figure = plt.figure(figsize=(14, 9.2))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)  # inches around each panel
    panels = figure.subplots(2, 4).flatten()
    for panel, (title, call, image) in zip(panels, pictures, strict=False):
        caption(panel, title, call)
        panel.imshow(image[0].permute(1, 2, 0).clamp(0, 1), cmap="gray", aspect="auto")
    caption(panels[-1], "Their kernel matrix: 72 x 64", "K = kernel_matrix(w, (8, 8))")
    panels[-1].imshow(matrix, cmap="RdBu_r", aspect="auto")
    return figure


def caption(panel: Axes, title: str, call: str) -> None:
    panel.set_title(title, fontsize=13)
    panel.set_xlabel(call, family="monospace")
    panel.set(xticks=[], yticks=[], box_aspect=600 / 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("photograph.png"))
    output = parser.parse_args().output
    draw().savefig(output, dpi=120)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
