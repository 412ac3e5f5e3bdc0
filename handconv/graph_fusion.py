"""Branch fusion over a whole model: its graph is searched for sums of convolutions of one input."""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from handconv.fusion import CannotFuse, fuse_branches
from handconv.modules import Conv2d, ConvTranspose2d

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


@dataclass
class FusionReport:
    """What :func:`fuse` did; `str` of it is made to be read.

    Attributes:
        convolutions_before, convolutions_after: how many nn.Conv2d the model runs.
        normalizations_before, normalizations_after: how many nn.BatchNorm2d.
        fused: for each new convolution the names of the modules that it stands for.
        refused: for each sum or pair that is left as it was, its modules and the reason.
    """

    convolutions_before: int = 0
    convolutions_after: int = 0
    normalizations_before: int = 0
    normalizations_after: int = 0
    fused: list[tuple[str, ...]] = field(default_factory=list)
    refused: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.convolutions_before} convolutions became {self.convolutions_after}, "
            f"{self.normalizations_before} batch normalisations {self.normalizations_after}"
        ]
        lines += [f"  not {' + '.join(names)}: {reason}" for names, reason in self.refused]
        return "\n".join(lines)


def fuse(model: nn.Module) -> tuple[fx.GraphModule, FusionReport]:
    """Parallel branches and batch normalisation of a model, folded into single convolutions.

    The model is traced by torch.fx. Where branches over one input are added (a RepVGG block: 3x3,
    1x1 and identity, each with batch normalisation), :func:`handconv.fuse_branches` makes one
    convolution of them; then every batch normalisation after a convolution is folded into it.

    Args:
        model: in evaluation mode and traceable by torch.fx. It is not changed.

    Returns:
        The fused model, with parameters of its own, and a report of what went and what could not.
        Where a module is used more than once it is left alone.
    """
    traced = fx.GraphModule(copy.deepcopy(model), _Tracer().trace(model))
    report = FusionReport()
    report.convolutions_before, report.normalizations_before = _count(traced)
    for root in [node for node in traced.graph.nodes if _is_root(node)]:
        _fuse_sum(traced, root, report)
    for node in list(traced.graph.nodes):
        _fuse_chain(traced, node, report)
    traced.graph.eliminate_dead_code()
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    report.convolutions_after, report.normalizations_after = _count(traced)
    return traced, report


class _Tracer(fx.Tracer):
    """Does not look into handconv's modules, as torch.fx does not look into torch.nn's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (Conv2d, ConvTranspose2d))
        return ours or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Chain:
    """A branch: the modules that follow `source` one after another."""

    source: fx.Node
    modules: tuple[nn.Module, ...]
    names: tuple[str, ...]

    @property
    def has_convolution(self) -> bool:
        return any(isinstance(module, nn.Conv2d) for module in self.modules)


def _module(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    return model.get_submodule(str(node.target))


def _count(model: fx.GraphModule) -> tuple[int, int]:
    """The convolutions and the batch normalisations that the graph runs."""
    modules = [_module(model, node) for node in model.graph.nodes]
    convolutions = sum(isinstance(module, nn.Conv2d) for module in modules)
    return convolutions, sum(isinstance(module, nn.BatchNorm2d) for module in modules)


def _is_addition(node: fx.Node) -> bool:
    two_tensors = len(node.args) == 2 and all(isinstance(arg, fx.Node) for arg in node.args)
    known = node.op in ("call_function", "call_method") and node.target in _ADDITIONS
    return known and two_tensors and not node.kwargs


def _is_root(node: fx.Node) -> bool:
    """Whether a sum ends here: no further addition is its only use."""
    only_user = next(iter(node.users)) if len(node.users) == 1 else None
    return _is_addition(node) and not (only_user is not None and _is_addition(only_user))


def _terms(node: Any, root: fx.Node) -> list[fx.Node]:
    if _is_addition(node) and (node is root or len(node.users) == 1):
        return [term for arg in node.args for term in _terms(arg, root)]
    return [node]


def _chain(model: fx.GraphModule, node: fx.Node) -> _Chain:
    """The branch that ends in `node`: at most a convolution and a normalisation after it."""
    modules: list[nn.Module] = []
    names: list[str] = []
    for kind in (nn.BatchNorm2d, nn.Conv2d):
        module = _module(model, node)
        while isinstance(module, nn.Identity) and _used_once(model, node):
            node = node.all_input_nodes[0]
            module = _module(model, node)
        if isinstance(module, kind) and _used_once(model, node):
            modules.insert(0, module)
            names.insert(0, str(node.target))
            node = node.all_input_nodes[0]
    return _Chain(node, tuple(modules), tuple(names))


def _used_once(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node has one user and its module no other node."""
    calls = [n for n in model.graph.nodes if n.op == "call_module" and n.target == node.target]
    return len(node.users) == 1 and len(calls) == 1


def _try_to_fuse(chains: Sequence[_Chain], report: FusionReport) -> Conv2d | None:
    names = tuple(name for chain in chains for name in chain.names)
    try:
        fused = fuse_branches(*(nn.Sequential(*chain.modules) for chain in chains))
    except CannotFuse as error:
        report.refused.append((names, str(error)))
        return None
    report.fused.append(names)
    return fused


def _insert(model: fx.GraphModule, before: fx.Node, module: Conv2d, source: fx.Node) -> fx.Node:
    number = sum(name.startswith("fused_") for name, _ in model.named_children())
    name = f"fused_{number}"
    model.add_module(name, module.train(model.training))
    with model.graph.inserting_before(before):
        return model.graph.call_module(name, (source,))


def _fuse_sum(model: fx.GraphModule, root: fx.Node, report: FusionReport) -> None:
    """The terms over each input become a convolution; the others are added as before."""
    terms = _terms(root, root)
    by_source: dict[fx.Node, list[tuple[fx.Node, _Chain]]] = defaultdict(list)
    for term in terms:
        chain = _chain(model, term)
        by_source[chain.source].append((term, chain))
    summands: list[fx.Node] = []
    for source, members in by_source.items():
        chains = [chain for _, chain in members]
        fused = None
        if len(members) >= 2 and any(chain.has_convolution for chain in chains):
            fused = _try_to_fuse(chains, report)
        if fused is None:
            summands += [term for term, _ in members]
        else:
            summands.append(_insert(model, root, fused, source))
    if len(summands) < len(terms):
        root.replace_all_uses_with(_add_up(model, root, summands))
        model.graph.eliminate_dead_code()


def _add_up(model: fx.GraphModule, before: fx.Node, summands: Sequence[fx.Node]) -> fx.Node:
    total, *others = summands
    for summand in others:
        with model.graph.inserting_before(before):
            total = model.graph.call_function(operator.add, (total, summand))
    return total


def _fuse_chain(model: fx.GraphModule, node: fx.Node, report: FusionReport) -> None:
    """A convolution and the batch normalisation after it."""
    if not isinstance(_module(model, node), nn.BatchNorm2d):
        return
    chain = _chain(model, node)
    if not chain.has_convolution or len(chain.modules) < 2:
        return
    fused = _try_to_fuse([chain], report)
    if fused is not None:
        node.replace_all_uses_with(_insert(model, node, fused, chain.source))
