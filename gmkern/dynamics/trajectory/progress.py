"""A progress bar over steps, drawn by rich; nothing is imported unless it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(shown: bool, steps: int) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told how many more steps are done.

    Raises
    ------
    ImportError : a bar is asked for and rich is not installed.
    """
    if not shown:
        yield lambda done: None
        return
    try:
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError("progress: got True, and the package rich is not installed (pip install rich)") from error
    with Progress() as progress:
        task = progress.add_task("simulate", total=steps)
        yield lambda done: progress.advance(task, done)
