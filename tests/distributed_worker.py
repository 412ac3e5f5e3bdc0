"""What tests/test_distributed.py runs in each of its processes: worker.py CHECK RANK PORT."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import handconv
import handconv.distributed

PROCESSES = 2


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4),
        nn.ConvTranspose2d(8, 2, 2, stride=2),
    )
    return handconv.convert(net.double())


def batch() -> Tensor:
    return torch.randn(4, 4, 9, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def single_process_gradients() -> dict[str, Tensor]:
    net = make_net()
    net(batch()).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor]) -> None:
    right = single_process_gradients()
    assert found.keys() == right.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, right[name], rtol=1e-12, atol=1e-12)


def check_ddp(mesh: DeviceMesh, rank: int) -> None:
    net = DistributedDataParallel(make_net())
    net(batch().chunk(PROCESSES)[rank]).square().mean().backward()
    assert_same_gradients({n.removeprefix("module."): p.grad for n, p in net.named_parameters()})


def check_fsdp(mesh: DeviceMesh, rank: int) -> None:
    net = make_net()
    for layer in net:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    net(batch().chunk(PROCESSES)[rank]).square().mean().backward()
    assert_same_gradients({n: p.grad.full_tensor() for n, p in net.named_parameters()})


# (of x, of w), and where the output must then lie: by groups of the convolution
PLACEMENTS: dict[int, list[tuple[Any, Any, Any]]] = {
    1: [
        (Replicate(), Replicate(), Replicate()),
        (Shard(0), Replicate(), Shard(0)),
        (Replicate(), Shard(0), Shard(1)),
        (Shard(1), Shard(1), Partial()),
        (Shard(2), Replicate(), None),  # no rule: redistributed
        (Shard(3), Shard(2), None),
    ],
    4: [
        (Shard(0), Replicate(), Shard(0)),
        (Shard(1), Shard(0), Shard(1)),
        (Shard(2), Shard(1), None),
    ],
}


def check_dtensor(mesh: DeviceMesh, rank: int) -> None:
    handconv.distributed.register()
    for function in (handconv.conv2d, handconv.conv_transpose2d):
        for groups, placements in PLACEMENTS.items():
            for with_bias in (False, True):
                for placement in placements:
                    check_placement(mesh, function, groups, with_bias, placement)


def check_placement(
    mesh: DeviceMesh,
    function: Callable[..., Tensor],
    groups: int,
    with_bias: bool,
    placement: tuple[Any, Any, Any],
) -> None:
    torch.manual_seed(2)
    x_placement, w_placement, y_placement = placement
    x = torch.randn(4, 8, 7, 6, dtype=torch.float64)
    w = torch.randn(8, 8 // groups, 3, 3, dtype=torch.float64)
    bias = torch.randn(8, dtype=torch.float64) if with_bias else None
    leaves = [t.clone().requires_grad_() for t in (x, w)]
    sharded = [
        distribute_tensor(t, mesh, [p]).detach().requires_grad_()
        for t, p in ((x, x_placement), (w, w_placement))
    ]
    shared_bias = None
    if bias is not None:
        leaves.append(bias.clone().requires_grad_())
        shared_bias = distribute_tensor(bias, mesh, [Replicate()]).detach().requires_grad_()
        sharded.append(shared_bias)
    right = function(leaves[0], leaves[1], *leaves[2:], padding=1, groups=groups)
    output = function(sharded[0], sharded[1], shared_bias, padding=1, groups=groups)
    assert isinstance(output, DTensor)
    forward = function is handconv.conv2d
    if forward and y_placement is not None and not (with_bias and y_placement.is_partial()):
        assert output.placements == (y_placement,), (placement, output.placements)
    torch.testing.assert_close(output.full_tensor(), right, rtol=1e-12, atol=1e-12)
    output.full_tensor().square().sum().backward()
    right.square().sum().backward()
    for leaf, shard in zip(leaves, sharded, strict=True):
        torch.testing.assert_close(shard.grad.full_tensor(), leaf.grad, rtol=1e-11, atol=1e-11)


def main() -> None:
    check, rank, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    globals()[f"check_{check}"](mesh, rank)
    dist.destroy_process_group()
    print("done")


if __name__ == "__main__":
    main()
