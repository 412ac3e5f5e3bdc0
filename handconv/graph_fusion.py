"""Branch fusion over a whole model: its graph is searched for sums of convolutions of one input."""

from __future__ import annotations

import copy
import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import fx, nn

from handconv.fusion import CannotFuse, fuse_branches, has_hooks, peculiarity
from handconv.modules import Conv2d, ConvTranspose2d

_ADDITIONS = {operator.add, torch.add, "add"}
_ADDITIONS_IN_PLACE = {operator.iadd, "add_"}
_OPERATORS_IN_PLACE = {
    getattr(operator, name)
    for name in (
        *("iadd", "iand", "ifloordiv", "ilshift", "imatmul", "imod", "imul", "ior", "ipow"),
        *("irshift", "isub", "itruediv", "ixor", "setitem"),
    )
}
_FUSABLE = (nn.Conv2d, nn.BatchNorm2d, nn.Identity)


@dataclass
class FusionReport:
    """What :func:`fuse` did; `str` of it is made to be read.

    Attributes:
        convolutions_before, convolutions_after: how many nn.Conv2d the model runs.
        normalizations_before, normalizations_after: how many nn.BatchNorm2d.
        fused: for each new convolution the names of the modules that it stands for.
        refused: for each sum or pair that is left as it was, its modules and the reason; also for
            each module that can be in none.
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
        A module is left alone where it is used more than once, has hooks or computes something
        else than the class that it derives from; a sum, where what it reads may be written to
        before it is complete.

    Raises:
        CannotFuse: the model itself has hooks or a forward of its own, which torch.fx would drop.
    """
    if has_hooks(model) or "forward" in vars(model):
        raise CannotFuse("the model itself has hooks or a forward of its own: torch.fx drops them")
    traced = fx.GraphModule(copy.deepcopy(model), _Tracer().trace(model))
    report = FusionReport()
    report.convolutions_before, report.normalizations_before = _count(traced)
    report.refused += _peculiarities(traced)
    for root in [node for node in traced.graph.nodes if _is_root(traced, node)]:
        _fuse_sum(traced, root, report)
    for node in list(traced.graph.nodes):
        _fuse_chain(traced, node, report)
    _remove_unused(traced)
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    report.convolutions_after, report.normalizations_after = _count(traced)
    return traced, report


class _Tracer(fx.Tracer):
    """Does not look into convolutions and normalisations, also those of classes that torch.fx does
    not know.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, (nn.Conv2d, nn.BatchNorm2d, ConvTranspose2d))
        return whole or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Chain:
    """A branch: the modules that follow `source` one after another, and the node that reads it."""

    source: fx.Node
    modules: tuple[nn.Module, ...]
    names: tuple[str, ...]
    reader: fx.Node

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


def _plain(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it does what its kind does and fusion knows that kind."""
    module = _module(model, node)
    return module if isinstance(module, _FUSABLE) and peculiarity(module) is None else None


def _fusable(model: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if fusion may replace the call."""
    return _plain(model, node) if _used_once(model, node) else None


def _peculiarities(model: fx.GraphModule) -> list[tuple[tuple[str, ...], str]]:
    """The modules that cannot be part of anything fused, and why."""
    found = {}
    for node in model.graph.nodes:
        module = _module(model, node)
        reason = peculiarity(module) if isinstance(module, _FUSABLE) else None
        if reason is not None:
            found[(str(node.target),)] = f"{type(module).__name__}: {reason}"
    return list(found.items())


def _is_addition(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node adds two tensors and writes to nothing that anything else could read."""
    if node.op not in ("call_function", "call_method") or node.kwargs or len(node.args) != 2:
        return False
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return False
    if node.target in _ADDITIONS_IN_PLACE:
        return len(left.users) == 1 and _is_new(model, left)
    return node.target in _ADDITIONS


def _is_new(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the memory of a result is no other's."""
    computed = isinstance(_plain(model, node), (nn.Conv2d, nn.BatchNorm2d))
    return computed or _is_addition(model, node)


def _is_root(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a sum ends here: no further addition is its only use."""
    only_user = next(iter(node.users)) if len(node.users) == 1 else None
    goes_on = only_user is not None and _is_addition(model, only_user)
    return _is_addition(model, node) and not goes_on


def _terms(model: fx.GraphModule, addition: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """The terms of a sum, each with the addition that reads it."""
    terms = []
    for node in addition.args:
        assert isinstance(node, fx.Node)
        inner = _is_addition(model, node) and len(node.users) == 1
        terms += _terms(model, node) if inner else [(node, addition)]
    return terms


def _chain(model: fx.GraphModule, node: fx.Node, reader: fx.Node) -> _Chain:
    """The branch that ends in `node`: at most a convolution and a normalisation after it."""
    modules: list[nn.Module] = []
    names: list[str] = []
    for kind in (nn.BatchNorm2d, nn.Conv2d):
        module = _fusable(model, node)
        while isinstance(module, nn.Identity):
            node = node.all_input_nodes[0]
            module = _fusable(model, node)
        if isinstance(module, kind):
            modules.insert(0, module)
            names.insert(0, str(node.target))
            reader = node
            node = node.all_input_nodes[0]
    return _Chain(node, tuple(modules), tuple(names), reader)


def _used_once(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node has one user and its module no other node."""
    calls = [n for n in model.graph.nodes if n.op == "call_module" and n.target == node.target]
    return len(node.users) == 1 and len(calls) == 1


def _names(chains: Sequence[_Chain]) -> tuple[str, ...]:
    return tuple(name for chain in chains for name in chain.names)


def _writes(model: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node may write to what it is given.

    By torch's conventions: a name that ends in an underscore, `inplace` or `out`. Hooks, forwards
    and functions of somebody's own may do anything.
    """
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        unknown = has_hooks(module) or peculiarity(module) is not None
        return unknown or bool(getattr(module, "inplace", False))
    if node.op not in ("call_function", "call_method") or _is_addition(model, node):
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    name = name.partition(".")[0]  # of an overload
    by_name = name.endswith("_") and not name.endswith("__")
    by_keyword = bool(node.kwargs.get("inplace")) or node.kwargs.get("out") is not None
    known = isinstance(node.target, str) or _keeps_conventions(node.target)
    return by_name or by_keyword or not known or node.target in _OPERATORS_IN_PLACE


def _keeps_conventions(function: Any) -> bool:
    """Whether a function is torch's, Python's or handconv's, rather than somebody's own."""
    module = getattr(function, "__module__", None) or "torch"
    if module.startswith("torch._ops."):
        return module in ("torch._ops.aten", "torch._ops.handconv")
    return module.partition(".")[0] in ("torch", "_operator", "builtins", "math", "handconv")


def _memory(model: fx.GraphModule, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes whose results may lie in the same memory as those of `nodes`."""
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if _is_new(model, node) else node.all_input_nodes
    return found


def _reason_to_stay(
    model: fx.GraphModule, reads: Sequence[fx.Node], first: fx.Node, last: fx.Node
) -> str | None:
    """Why what reads the nodes `reads`, from `first` on, cannot all be done at `last`."""
    memory = _memory(model, reads)
    node = first.next
    while node is not last:
        if _writes(model, node) and memory & _memory(model, node.all_input_nodes):
            return f"{node.name} may write to what they read, before all of it is read"
        node = node.next
    return None


def _try_to_fuse(chains: Sequence[_Chain], report: FusionReport) -> Conv2d | None:
    names = _names(chains)
    try:
        fused = fuse_branches(*(nn.Sequential(*chain.modules) for chain in chains))
    except CannotFuse as error:
        report.refused.append((names, str(error)))
        return None
    report.fused.append(names)
    return fused


def _insert(model: fx.GraphModule, before: fx.Node, module: Conv2d, source: fx.Node) -> fx.Node:
    name = next(name for name in map("fused_{}".format, count()) if not hasattr(model, name))
    model.add_module(name, module.train(model.training))
    with model.graph.inserting_before(before):
        return model.graph.call_module(name, (source,))


def _fuse_sum(model: fx.GraphModule, root: fx.Node, report: FusionReport) -> None:
    """The terms over each input become a convolution; the others are added as before."""
    terms = _terms(model, root)
    chains = {term: _chain(model, term, reader) for term, reader in terms}
    by_source: dict[fx.Node, list[fx.Node]] = defaultdict(list)
    for term, _ in terms:
        by_source[chains[term].source].append(term)
    groups = {
        source: [chains[term] for term in members]
        for source, members in by_source.items()
        if len(members) >= 2 and any(chains[term].has_convolution for term in members)
    }
    if not groups:
        return
    first = min([reader for _, reader in terms] + [chain.reader for chain in chains.values()])
    reason = _reason_to_stay(model, [*by_source, *chains], first, root)
    if reason is not None:
        report.refused += [(_names(group), reason) for group in groups.values()]
        return
    summands: list[fx.Node] = []
    for source, members in by_source.items():
        fused = _try_to_fuse(groups[source], report) if source in groups else None
        if fused is None:
            summands += members
        else:
            summands.append(_insert(model, root, fused, source))
    if len(summands) < len(terms):
        root.replace_all_uses_with(_add_up(model, root, summands))
        _remove_unused(model)


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
    chain = _chain(model, node, node)
    if not chain.has_convolution or len(chain.modules) < 2:
        return
    reason = _reason_to_stay(model, [chain.source], chain.reader, node)
    if reason is not None:
        report.refused.append((chain.names, reason))
        return
    fused = _try_to_fuse([chain], report)
    if fused is not None:
        node.replace_all_uses_with(_insert(model, node, fused, chain.source))


def _remove_unused(model: fx.GraphModule) -> None:
    """Removes what fusion has replaced. Of anything else it is not known that only its result
    matters.
    """

    def matters(node: fx.Node) -> bool:
        return not _is_addition(model, node) and _plain(model, node) is None

    model.graph.eliminate_dead_code(is_impure_node=matters)
