"""The card as the rest of the gateway sees it: its last reading, or why there is none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass

from app.gpu.admission import Settled, Situation, budget
from app.gpu.card import Card, CardUnreadable, Reading
from app.gpu.engine_memory import EngineMemory, Offset, engine_memory


@dataclass(frozen=True, slots=True)
class Picture:
    """The card and ComfyUI's part of it, at one moment."""

    reading: Reading
    engine: EngineMemory


class GpuMonitor:
    """One card's readings, made in threads, and what is remembered between them.

    Without a card (`admission` `off`) it reads nothing and everything is admitted.

    Attributes:
        last: The newest reading; None before the first, and without a card.
        problem: Why the newest attempt to read failed; None if it did not.
        engine: What ComfyUI held at the newest `look`, which is when something was decided.
        picture: The newest reading for which ComfyUI's part was asked too: for who looks on.
        offset: What ComfyUI holds beside torch's own memory.
    """

    def __init__(
        self,
        *,
        card: Card | None,
        margin_mib: int,
        timeout_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the monitor; nothing is read yet.

        Args:
            card: The card; None for admission `off`.
            margin_mib: Memory that is never given away.
            timeout_seconds: A driver that does not answer in this time cannot be read.
            monotonic: Clock of ages and of the hysteresis.
        """
        self.card = card
        self.margin_mib = margin_mib
        self.last: Reading | None = None
        self.problem: CardUnreadable | None = None
        self.engine: EngineMemory | None = None
        self.picture: Picture | None = None
        self.offset = Offset()
        self._settled = Settled()
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._read_at: float | None = None
        self._pending: Future[Reading] | None = None

    @property
    def enabled(self) -> bool:
        """Whether admission looks at a card."""
        return self.card is not None

    @property
    def age_seconds(self) -> float | None:
        """Age of the newest reading; None if there is none."""
        return None if self._read_at is None else self._monotonic() - self._read_at

    @property
    def capacity_mib(self) -> int | None:
        """The largest need that can ever be admitted; None without a card or a reading."""
        return None if self.last is None else self.last.capacity_mib - self.margin_mib

    @property
    def verdict(self) -> str:
        """Admission's state in words, for `/v1/system`, `/readyz` and the log."""
        if self.card is None:
            return "off: every job is admitted without a look at the card"
        if self.problem is not None:
            return f"nothing is admitted: {self.problem}"
        if self.last is None:
            return "nothing is admitted: the card was not read yet"
        return "on"

    async def read(self, *, max_age_seconds: float = 0.0) -> Reading | None:
        """Read the card in a thread; calls at the same moment share one reading.

        Args:
            max_age_seconds: A younger reading is given instead of a new one; 0 reads always.

        Returns:
            The reading; None without a card.

        Raises:
            CardUnreadable: The card cannot be read now. A later call may succeed.
        """
        if self.card is None:
            return None
        age = self.age_seconds
        fresh = age is not None and age < max_age_seconds and self.problem is None
        if fresh and self.last is not None:
            return self.last
        if self._pending is None or self._pending.done():
            self._pending = _in_thread(self.card.read)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reading = await asyncio.wrap_future(self._pending)
        except TimeoutError:
            self.problem = CardUnreadable(
                f"The driver has not answered for {self._timeout_seconds:g} s.",
                advice="Check `nvidia-smi` and the kernel's log for an Xid.",
            )
            raise self.problem from None
        except CardUnreadable as problem:
            self.problem = problem
            raise
        self.last, self.problem, self._read_at = reading, None, self._monotonic()
        return reading

    async def observe(
        self, *, pids: Collection[int] = (), torch_mib: int | None = None
    ) -> Picture | None:
        """Read the card for who looks on; nothing is decided or learned by it.

        Args:
            pids: ComfyUI's processes, where the gateway owns them.
            torch_mib: `/system_stats` `torch_vram_total`, asked just now; None if not.

        Returns:
            The picture; None without a card.

        Raises:
            CardUnreadable: The card cannot be read now.
        """
        reading = await self.read()
        if reading is None:
            return None
        engine = engine_memory(reading, pids=pids, torch_mib=torch_mib, offset=self.offset)
        self.picture = Picture(reading, engine)
        return self.picture

    async def look(
        self,
        *,
        loaded: str | None,
        running_need_mib: int | None,
        pids: Collection[int] = (),
        torch_mib: int | None = None,
        idle: bool = False,
    ) -> Situation | None:
        """Read the card and say how things stand, for `admission.choose`.

        Args:
            loaded: Models key of what ComfyUI has in memory; see `Situation`.
            running_need_mib: Need of the job that runs now; None if none runs.
            pids: ComfyUI's processes, where the gateway owns them.
            torch_mib: `/system_stats` `torch_vram_total`, asked just now; None if not.
            idle: ComfyUI runs nothing: the offset may be learned.

        Returns:
            The situation; None without a card: everything is admitted.

        Raises:
            CardUnreadable: The card cannot be read now: admit nothing, look again later.
        """
        reading = await self.read()
        if reading is None:
            return None
        if idle and torch_mib is not None:
            self.offset = self.offset.learn(reading, torch_mib=torch_mib, pids=pids)
        engine = engine_memory(reading, pids=pids, torch_mib=torch_mib, offset=self.offset)
        self.engine = engine
        self.picture = Picture(reading, engine)
        self._settled = self._settled.add(budget(reading, engine), self._monotonic())
        return Situation(
            reading=reading,
            engine=engine,
            loaded=loaded,
            running_need_mib=running_need_mib,
            margin_mib=self.margin_mib,
            steady_budget_mib=self._settled.budget_mib,
        )


def _in_thread(call: Callable[[], Reading]) -> Future[Reading]:
    """Run a call that may hang for good in a daemon thread, which holds up nobody's exit."""
    answer: Future[Reading] = Future()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is raised where the reading is awaited
            answer.set_exception(error)

    threading.Thread(target=run, name="card-read", daemon=True).start()
    return answer
