"""The semaphore."""

from types import TracebackType
from typing import Any

from . import _handles, _parkline
from ._loops import complete


class AioSemaphore:
    """`semaphore.aio`: the same semaphore, awaited: `asyncio.Semaphore`'s methods, and `async with`.

    A cancelled `acquire` has acquired nothing.
    """

    __slots__ = ("_semaphore",)

    def __init__(self, semaphore: "Semaphore") -> None:
        self._semaphore = semaphore

    async def acquire(self) -> bool:
        """Acquires a permit, waiting while none is free. Returns True."""
        wait = self._semaphore._begin_acquire()
        if wait is not None:
            await complete(wait)
        return True

    def release(self, n: int = 1) -> None:
        """Releases permits that were acquired through this handle: see `Semaphore.release`."""
        self._semaphore.release(n)

    def locked(self) -> bool:
        """Whether no permit is free."""
        return self._semaphore.locked()

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return self._semaphore.closed

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<aio view of {self._semaphore!r}>"


class Semaphore(_parkline.Semaphore):
    """A number of permits that processes share. The permits of a killed process are released.

    Its methods are those of `threading.BoundedSemaphore`, `with` too; `aio` is the same semaphore with
    those of `asyncio.Semaphore`. A handle can be pickled into any process of this host, like a queue's. A
    forked child goes on with the handle that it inherited, and with no permit.

    A permit is released through the handle that acquired it, by any task or thread. So no process can
    release the permits of another, or more than were acquired. Waiting tasks of one process are served in
    the order of arrival. There is no order between processes, and a task that arrives just as a permit is
    released may take it first.

    `value`: how many permits there are, at least 1.
    `handles`: how many processes can have it at a time. Each has room for all permits.
    `watchdog`: seconds after which a waiting call or task checks whether other processes have died.
    """

    __slots__ = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _handles.for_pipes(cls)

    @classmethod
    def from_fd(cls, fd: int) -> "Semaphore":
        """Opens the semaphore of a descriptor (`share_fd()`), which is duplicated and stays yours. The
        `__init__` of a subclass does not run."""
        made = _handles.unmade(cls)
        _parkline.Semaphore.__init__(made, _fd=fd)
        return made

    @property
    def aio(self) -> AioSemaphore:
        """The same semaphore for tasks."""
        return AioSemaphore(self)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return _handles.reduce(self, {})


_handles.for_pipes(Semaphore)
