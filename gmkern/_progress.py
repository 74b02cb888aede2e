"""A progress bar for long work that runs in slices: rich's, on a terminal alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gmkern._validate import bad


@contextmanager
def bar(progress: bool, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields ``show(done)``: draws ``done`` of ``total`` (None: unknown) if ``progress`` and stderr is a terminal.

    Raises
    ------
    ImportError : ``progress`` is True and rich is not installed.
    """
    if not isinstance(progress, bool):
        raise bad("progress", progress, "True or False", error=TypeError)
    if not progress:
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError as error:
        raise ImportError(
            "progress: got True, and the package rich is not installed; pip install 'gmkern[cli]'"
        ) from error
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as view:
        task = view.add_task(label, total=total)
        yield lambda done: view.update(task, completed=done)
