"""What operators should hear of: told once when it begins, again only when it changes or comes back."""

from __future__ import annotations

from typing import NamedTuple

from shared.runtime.runtime import Runtime


class Notice(NamedTuple):
    """An event to be published."""

    kind: str
    object: str
    message: str


class Notices:
    """The present complaints, and those not told yet."""

    def __init__(self) -> None:
        self._present: dict[tuple[str, str], Notice] = {}
        self._untold: dict[tuple[str, str], Notice] = {}

    def report(self, kind: str, *, about: str, object: str, message: str) -> None:
        """``about`` tells complaints of one kind apart."""
        notice = Notice(kind, object, message)
        if self._present.get((kind, about)) != notice:
            self._present[kind, about] = notice
            self._untold[kind, about] = notice

    def clear(self, kind: str, *, about: str) -> None:
        """The cause is gone. What was not told yet still will be: it did happen."""
        self._present.pop((kind, about), None)

    def drain(self) -> list[Notice]:
        """Those to be told now, each returned once."""
        untold, self._untold = self._untold, {}
        return list(untold.values())

    async def tell(self, runtime: Runtime) -> None:
        """Publish those to be told now as events."""
        for notice in self.drain():
            await runtime.event(kind=notice.kind, object=notice.object, message=notice.message)

    def count(self, kind: str) -> int:
        """Present complaints of one kind."""
        return sum(1 for present, _ in self._present if present == kind)
