"""Whole models on handconv: every torch.nn convolution of a model is given handconv's class.

An object keeps its identity when its class changes: parameters, buffers, hooks, parametrizations,
training flags, names and whoever else holds the module stay as they are.
"""

import warnings
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from torch import nn

from handconv import modules

Model = TypeVar("Model", bound=nn.Module)

_REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: modules.Conv2d,
    nn.ConvTranspose2d: modules.ConvTranspose2d,
    nn.LazyConv2d: modules.LazyConv2d,
    nn.LazyConvTranspose2d: modules.LazyConvTranspose2d,
}
_ORIGINALS = {ours: theirs for theirs, ours in _REPLACEMENTS.items()}
_OURS = tuple(_ORIGINALS)
_OVERRIDABLE = ("forward", "_conv_forward", "__call__", "_call_impl")


@dataclass(frozen=True)
class Entry:
    """A 2-D convolution of a model.

    Attributes:
        name: as in `named_modules`; "" is the model itself.
        description: its class and arguments.
        on_handconv: whether handconv computes it.
        reason: why not; None if it does.
    """

    name: str
    description: str
    on_handconv: bool
    reason: str | None


@dataclass(frozen=True)
class Summary:
    """The 2-D convolutions of a model; `str` of it is made to be read."""

    entries: tuple[Entry, ...]

    @property
    def on_handconv(self) -> int:
        return sum(entry.on_handconv for entry in self.entries)

    def __str__(self) -> str:
        lines = [f"{self.on_handconv} of {len(self.entries)} convolutions run on handconv"]
        lines += [
            f"  not {entry.name or 'the model itself'}, {entry.description}: {entry.reason}"
            for entry in self.entries
            if not entry.on_handconv
        ]
        return "\n".join(lines)


def convert(model: Model) -> Model:
    """Let handconv compute every 2-D convolution of a model, in place.

    Each nn.Conv2d and nn.ConvTranspose2d becomes a :class:`handconv.Conv2d` or
    :class:`handconv.ConvTranspose2d`, the same object with the same parameters, hooks,
    parametrizations, training flag and state_dict keys. Subclasses are converted too, except those
    that override what computes the convolution: these are left as they are, with a warning. So is
    what has an attribute `algorithm` already.
    :func:`summary` lists what is converted and what is not; :func:`restore` undoes it.

    Returns:
        The model itself.
    """
    left = []
    for name, module in _convolutions(model):
        if isinstance(module, _OURS):
            continue
        reason = _reason_against(module)
        if reason is None:
            module.__class__ = _converted(type(module))
        else:
            left.append(_left_module(name, module, reason))
    if left:
        warnings.warn(f"handconv.convert left alone: {', '.join(left)}", stacklevel=2)
    return model


def restore(model: Model) -> Model:
    """The undo of :func:`convert`: every convolution gets torch's class again, in place.

    What was chosen by `algorithm` is forgotten. Modules of classes that derive from handconv's,
    your own or one that a library made of a converted module's class (FSDP2 does), stay as they
    are, with a warning.

    Returns:
        The model itself.
    """
    left = []
    for name, module in model.named_modules():
        if not isinstance(module, _OURS):
            continue
        original = _restored(type(module))
        if original is None:
            left.append(_left_module(name, module, "its class derives from handconv's"))
        else:
            module.__class__ = original
            vars(module).pop("algorithm", None)
    if left:
        warnings.warn(f"handconv.restore left alone: {', '.join(left)}", stacklevel=2)
    return model


def _left_module(name: str, module: nn.Module, reason: str) -> str:
    return f"{name or 'the model itself'} ({type(module).__name__}: {reason})"


def summary(model: nn.Module) -> Summary:
    """Which 2-D convolutions of a model handconv computes, and why not the others."""
    return Summary(tuple(_entries(model)))


def _entries(model: nn.Module) -> Iterator[Entry]:
    for name, module in _convolutions(model):
        ours = isinstance(module, _OURS)
        reason = None if ours else _reason_against(module) or "not converted"
        yield Entry(name, repr(module).partition("\n")[0], ours, reason)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The 2-D convolutions of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            yield name, module


def _reason_against(module: nn.Module) -> str | None:
    """Why one of torch's convolutions is not to be converted; None if it is."""
    if hasattr(module, "algorithm"):  # would choose handconv's
        return "it has an attribute 'algorithm' of its own"
    return departure(module, _REPLACEMENTS)


def departure(module: nn.Module, known: Container[type]) -> str | None:
    """How a module departs from what the known class that it derives from computes.

    None if it does not. Its hooks are not looked at.
    """
    overridden = _overridden(type(module), known)
    if overridden is not None:
        return f"its class overrides {overridden}"
    own = next((name for name in _OVERRIDABLE if name in vars(module)), None)
    return None if own is None else f"it has a {own} of its own"


def _overridden(cls: type, known: Container[type]) -> str | None:
    """What a class overrides of that which computes, in the known class that it derives from."""
    base = next(ancestor for ancestor in cls.__mro__ if ancestor in known)
    for name in _OVERRIDABLE:
        if getattr(cls, name, None) is not getattr(base, name, None):
            return name
    return None


def _torch_class(cls: type) -> type[nn.Module]:
    """The class of torch's that handconv has another for, from which `cls` derives."""
    return next(base for base in cls.__mro__ if base in _REPLACEMENTS)


def _is_parametrized(cls: type) -> bool:
    """Whether parametrize made this class, for one module, to put properties into it."""
    return cls.__name__ == f"Parametrized{cls.__bases__[0].__name__}" and any(
        isinstance(value, property) for value in vars(cls).values()
    )


def _converted(cls: Any) -> Any:
    if cls in _REPLACEMENTS:
        return _REPLACEMENTS[cls]
    if _is_parametrized(cls):
        return _on_another_base(cls, _converted(cls.__bases__[0]))
    return _converted_subclass(cls)


def _restored(cls: Any) -> Any:
    """The class that was converted to `cls`; None if `cls` is no result of a conversion."""
    if _is_parametrized(cls):
        base = _restored(cls.__bases__[0])
        return base and _on_another_base(cls, base)
    if _ConvertedSubclass in cls.__bases__:
        return cls.original
    return _ORIGINALS.get(cls)


def _on_another_base(cls: type, base: type) -> type:
    contents = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    return type(f"Parametrized{base.__name__}", (base,), contents)


class _ConvertedSubclass:
    """What a converted subclass of torch's convolutions derives from first.

    Such a class is made at run time and has no importable name, so its objects are pickled as that
    class says that objects of its own are, and converted again when they are loaded.
    """

    original: type[nn.Module]

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Keeps from a class that registers its subclasses what is no subclass of the user's."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, arguments, *rest = reduced
        arguments = [self.original if a is type(self) else a for a in arguments]
        return _make_converted, (make, *arguments), *rest


def _make_converted(make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    module = make(*arguments)
    module.__class__ = _converted(type(module))
    return module


@cache
def _converted_subclass(cls: Any) -> Any:
    """A class with all of `cls`, whose convolution is handconv's."""
    ours = _REPLACEMENTS[_torch_class(cls)]
    contents = {"original": cls, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    becomes = getattr(cls, "cls_to_become", None)  # of a lazy module, at its first input
    if becomes is not None and _overridden(becomes, _REPLACEMENTS) is None:
        contents["cls_to_become"] = _converted(becomes)
    return type(cls.__name__, (_ConvertedSubclass, cls, ours), contents)
