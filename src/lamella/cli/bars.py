"""Progress as bars on a terminal, drawn by rich, which is imported when the first bar is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lamella.cli.output import clean, human_size
from lamella.cli.reporter import Reporter, Task

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_KEPT = 8
"""Bars of finished objects that stay in sight."""
_KEY_WIDTH = 24


class BarReporter(Reporter):
    """A bar for each object, with bytes and rate; an object of unknown size has a moving bar."""

    def __init__(self, on_cancelled: Callable[[], None] | None = None) -> None:
        super().__init__(on_cancelled)
        self._display: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._finished: list[TaskID] = []

    def close(self) -> None:
        """Leave the last state on the screen, and the cursor as it was."""
        super().close()
        with self._lock:
            if self._display is not None:
                self._display.stop()
                self._display = None

    def _started(self, task: Task) -> None:
        display = self._shown()
        text = f"{task.action} {clean(task.key)[:_KEY_WIDTH]}"
        self._bars[task.key] = display.add_task(text, total=task.total)

    def _advanced(self, task: Task, amount: int) -> None:
        if self._display is not None and task.key in self._bars:
            self._display.advance(self._bars[task.key], amount)

    def _ended(self, task: Task, outcome: str) -> None:
        bar = self._bars.pop(task.key, None)
        if self._display is None or bar is None:
            return
        text = f"{task.action} {clean(task.key)[:_KEY_WIDTH]}"
        if outcome == "done":
            self._display.update(bar, total=task.done, completed=task.done, refresh=True)
        else:
            self._display.update(bar, description=f"{text} ({outcome})", total=task.total or 1, refresh=True)
            self._display.stop_task(bar)
        self._finished.append(bar)
        if len(self._finished) > _KEPT:
            self._display.remove_task(self._finished.pop(0))

    def _noted(self, text: str) -> None:
        if self._display is None:
            super()._noted(text)
        else:
            self._display.console.print(f"lamella: note: {clean(text)}", markup=False, highlight=False, soft_wrap=True)

    def _shown(self) -> Progress:
        if self._display is None:
            self._display = _new_display()
            self._display.start()
        return self._display


def _new_display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, TextColumn
    from rich.progress import Task as Bar
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Bytes a second: lately, and over all once the bar is finished."""

        def render(self, task: Bar) -> Text:
            speed = task.speed
            if task.finished:
                speed = task.completed / task.finished_time if task.finished_time else None
            return Text("" if speed is None else f"{human_size(speed)}/s", style="progress.data.speed")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(complete_style="cyan", finished_style="green"),
        DownloadColumn(),
        RateColumn(),
        console=Console(stderr=True),
        refresh_per_second=10,
    )
