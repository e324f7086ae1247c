"""A reporter that keeps what it is told to note."""

from __future__ import annotations


class Noted:
    """``notes`` has the texts, in their order; the rest of what is reported is passed over."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, key: str, action: str, *, total: int | None = None, unit: str = "bytes") -> None:
        pass

    def advance(self, key: str, amount: int) -> None:
        pass

    def done(self, key: str, outcome: str = "done") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)
