"""``gmkern bench --compare``: what counts as slower, in which order commits run, and that nothing is left behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from gmkern.cli.app import app
from gmkern.cli.bench import compare
from gmkern.cli.bench.rows import Missed

CMAKE = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))


def turns(median: float, spread: float = 0.01, seed: int = 0) -> list[list[float]]:
    draw = np.random.default_rng(seed)
    return (median * (1 + spread * draw.standard_normal((compare.TURNS, 25)))).tolist()


def test_a_difference_within_the_spread_is_none():
    assert compare.verdict(turns(1.0), turns(1.2, seed=1)) == "slower"
    assert compare.verdict(turns(1.2), turns(1.0, seed=1)) == "faster"
    assert compare.verdict(turns(1.0), turns(1.0, seed=1)) == ""
    assert compare.verdict(turns(1.0, 1e-4), turns(1.04, 1e-4, seed=1)) == ""  # apart, but by less than 5%
    assert compare.verdict(turns(1.0, 0.3), turns(1.2, 0.3, seed=1)) == ""  # quartiles overlap
    once = [turns(1.0)[0], turns(1.0)[1], [2.5] * 25]  # a disturbed turn of the other commit
    assert compare.verdict(once, turns(1.2, seed=1)) == ""
    assert compare.verdict([[1.0]] * 3, [[1.2]] * 3) == "slower"  # one round a turn


def fake_run(order: list[str], slower: float):
    def run(path, folder, package, options, name):
        order.append(package.name)
        assert "--ours" in options
        factor = slower if package.name != "there" else 1.0
        data = {"op": [1.0 * factor] * 5, "same": [1.0] * 5}
        if package.name != "there":
            data["new"] = [1.0]
        lacking = [Missed(path, "case-gmkern", 1, "ImportError: new", True)] if package.name == "there" else []
        return [{"extra_info": {"case": case}, "stats": {"data": s}} for case, s in data.items()], lacking

    return run


@pytest.mark.parametrize(("slower", "code"), [(1.5, 1), (1.0, 0), (0.5, 0)])
def test_commits_take_turns_and_the_status_tells(monkeypatch, slower, code):
    order: list[str] = []
    monkeypatch.setattr(compare, "run", fake_run(order, slower))
    monkeypatch.setattr(compare, "other_tree", lambda here, revision: nullcontext(Path("there")))
    done = CliRunner().invoke(app, ["bench", "latent", "--quick", "--compare", "old"])
    assert done.exit_code == code, done.output
    here = next(name for name in order if name != "there")
    turn = [here, "there", "there", here]
    assert order in ([*turn, *turn[:2]], [*turn[2:], *turn])
    assert ("slower" in done.stdout, "faster" in done.stdout) == (slower > 1, slower < 1)
    told = "2 of 2" if slower == 1 else "1 of 2"
    assert f"{told} cases differ by no more than their spread" in done.stdout
    assert "latent: case-gmkern at old: ImportError: new" in done.stdout


@pytest.mark.skipif(CMAKE is None or shutil.which("git") is None, reason="needs git and cmake")
def test_the_other_tree_is_built_and_removed(tmp_path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    lists = tmp_path / "CMakeLists.txt"
    for text in ("before", "after"):
        lists.write_text(
            "cmake_minimum_required(VERSION 3.24)\nproject(tiny NONE)\n"
            f'add_custom_target(all_of_it ALL ${{CMAKE_COMMAND}} -E touch "${{GMKERN_OUTPUT_DIR}}-{text}")\n'
        )
        git("add", "-A")
        git("commit", "-q", "-m", text)
    with compare.other_tree(tmp_path, "HEAD~1") as tree:
        assert (tree / "gmkern-before").exists()
        assert git("worktree", "list").count("\n") == 2
    assert not tree.exists()
    lists.write_text("cmake_minimum_required(VERSION 3.24)\nproject(tiny NONE)\nno_such_command()\n")
    git("commit", "-q", "-a", "-m", "broken")
    broken = compare.other_tree(tmp_path, "HEAD")
    with pytest.raises(click.ClickException, match="--compare HEAD: cmake -S"):
        broken.__enter__()
    assert git("worktree", "list").count("\n") == 1
    assert git("status", "--porcelain") == ""
