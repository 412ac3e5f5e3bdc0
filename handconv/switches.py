"""What `algorithm="auto"` may choose: a switch of the process, as torch's own are."""

from types import TracebackType

from handconv import _C


class allow_winograd:
    """Whether "auto" may run Winograd's algorithm; from the start it may.

    Winograd multiplies less by transforming tiles, which rounds more: its error is at most twice
    that of F.conv2d in channels_last. An infinity or NaN spreads over its tile of 4x4 or 2x2
    outputs. Sets the switch at once, for the whole process and also for code that torch.compile has
    compiled; used as a context manager it is set back at the end:

        handconv.allow_winograd(False)
        with handconv.allow_winograd(False):
            ...

    A backward pass obeys the switch as it stands when it runs, not as it stood in the forward
    pass. ``algorithm="winograd"`` runs whatever the switch says.
    """

    def __init__(self, allowed: bool) -> None:
        self._before = _C.winograd_is_allowed()
        _C.allow_winograd(bool(allowed))

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _C.allow_winograd(self._before)
