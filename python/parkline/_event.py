"""The event."""

from typing import Any

from . import _handles, _parkline
from ._loops import complete
from ._parkline import _turn_is_over
from ._turn import pause


class AioEvent:
    """`event.aio`: the same event, awaited: `asyncio.Event`'s methods."""

    __slots__ = ("_event",)

    def __init__(self, event: "Event") -> None:
        self._event = event

    async def wait(self) -> bool:
        """Waits until it is set, also if it is cleared again at once. Returns True."""
        if not self._event.is_set():
            await complete(self._event._begin_wait())
        elif _turn_is_over():
            await pause()
        return True

    def set(self) -> None:
        """Sets it, and wakes all tasks and threads that wait, in all processes."""
        self._event.set()

    def clear(self) -> None:
        """Clears it."""
        self._event.clear()

    def is_set(self) -> bool:
        """Whether it is set."""
        return self._event.is_set()

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return self._event.closed

    def __repr__(self) -> str:
        return f"<aio view of {self._event!r}>"


class Event(_parkline.Event):
    """A flag that processes share: the signal to start, or to stop.

    Its methods are those of `threading.Event`; `aio` is the same event with those of `asyncio.Event`. A
    handle can be pickled into any process of this host, like a queue's, and a forked child goes on with
    the one that it inherited. Any number of processes can have it. A negative timeout is a `ValueError`.

    A process that is killed in a `set` has set the event or has not; there is nothing in between. If it
    has, waiters learn of it within `watchdog` seconds, unless the event is cleared before.
    """

    __slots__ = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _handles.for_pipes(cls)

    @classmethod
    def from_fd(cls, fd: int) -> "Event":
        """Opens the event of a descriptor (`share_fd()`), which is duplicated and stays yours. The
        `__init__` of a subclass does not run."""
        made = _handles.unmade(cls)
        _parkline.Event.__init__(made, _fd=fd)
        return made

    @property
    def aio(self) -> AioEvent:
        """The same event for tasks."""
        return AioEvent(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _handles.reduce(self, {})


_handles.for_pipes(Event)
