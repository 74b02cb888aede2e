"""What a reader of the page wants first: by how much each op is ahead of which rival, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence

from gmkern.cli.bench.rows import OURS, Row


def summary(rows: Sequence[Row]) -> str:
    """Markdown: a line that says where, a line for each path, and one of the rows that are behind. Empty if no rival.

    Of an op, whose cases' names begin with it, and a rival the least ratio and the greatest. Sizes on curves, and
    gmkern's own narrower weights, are left out.
    """
    beside = [(row, row.ratio) for row in rows if row.ratio is not None and row.point is None]
    beside = [(row, ratio) for row, ratio in beside if not row.tool.startswith(OURS)]
    if not beside:
        return ""
    paths: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row, ratio in beside:
        op = row.case.partition(",")[0]
        paths.setdefault(row.path, {}).setdefault(op, {}).setdefault(row.tool, []).append(ratio)
    places = dict.fromkeys(f"{row.about['machine']}, at commit {row.about['commit']}" for row, _ in beside)
    behind = [f"{row.case} beside {row.tool} ({ratio:.2f}×)" for row, ratio in beside if ratio < 1]
    where, names = "; ".join(places), "; ".join(behind) or "none"
    lines = [
        f"In short, on {where}: a rival's time over gmkern's, from its least row to its greatest, curves apart.",
        "",
    ]
    lines += [f"- **{path}**: {'; '.join(_op(op, tools) for op, tools in ops.items())}." for path, ops in paths.items()]
    return "\n".join([*lines, f"- **Behind** in {len(behind)} of {len(beside)} rows: {names}."])


def _op(op: str, tools: dict[str, list[float]]) -> str:
    from gmkern.demo.report import speedup_text

    spans = {
        tool: dict.fromkeys(speedup_text(end) for end in (min(found), max(found))) for tool, found in tools.items()
    }
    return f"`{op}` beside " + ", ".join(f"{tool} ({' to '.join(span)})" for tool, span in spans.items())
