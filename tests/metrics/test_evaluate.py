"""evaluate against the functions that compute each number alone, and its intervals against explicit resamples."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from gmkern import _validate
from gmkern.metrics import Report, evaluate, novelty, prdc, realism
from gmkern.metrics._bootstrap import Resamples, copying_score, intervals, mean, median
from gmkern.metrics._resampling import GENERATED, HOLDOUT, TRAIN, subset, with_replacement
from gmkern.metrics.report import NUMBERS


def sets(integers: bool, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    train, generated, holdout = (torch.randn(n, 4) * 1.5 for n in (310, 270, 90))
    if integers:  # copies and ties in plenty, in each set and across
        train, generated, holdout = (one.round() for one in (train, generated, holdout))
    generated[:40] = train[100:140]
    generated[40:70] = train[7]  # more copies of one sample than any k
    return train.to(dtype), generated.to(dtype), holdout.to(dtype)


@pytest.mark.parametrize("integers", [False, True])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("k", [1, 4])
def test_each_number_is_that_of_its_function(
    k: int, strict: bool, integers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, generated, holdout = sets(integers)
    monkeypatch.setattr("gmkern.metrics._sweep._ROWS", 61)  # several blocks
    monkeypatch.setattr("gmkern.metrics._sweep._PRODUCTS", 1)
    report = evaluate(generated, train, holdout=holdout, k=k, strict=strict, tolerance=0.3, resamples=3)
    for found, one in ((report.generated, generated), (report.holdout, holdout)):
        assert found.samples == len(one)
        want = prdc(train, one, k, strict=strict)
        assert [getattr(found, name).value for name in want._fields] == pytest.approx(list(want), rel=1e-14)
        new = novelty(one, train, holdout=holdout, tolerance=0.3)
        assert torch.equal(found.distances, new.distance)
        assert torch.equal(found.nearest, new.nearest)
        assert torch.equal(found.ratios, new.ratio)
        assert found.distance.value == float(new.distance.median())
        assert found.ratio.value == float(new.ratio.median())
        assert found.authenticity.value == pytest.approx(new.authenticity, rel=1e-14)
        assert found.duplicates.value == pytest.approx(new.duplicates / len(one), rel=1e-14)
        assert found.realism.value == float(realism(train, one, k).median())
        if one is generated:
            assert found.c_t.value == pytest.approx(new.c_t, rel=1e-12)
        else:
            assert found.c_t is None
        assert k in found.curve.k
        assert max(found.curve.k) == 20
        for at, other in enumerate(found.curve.k):
            want = prdc(train, one, other, strict=strict)
            here = (found.curve.precision[at], found.curve.recall[at], found.curve.coverage[at])
            assert here == (want.precision, want.recall, want.coverage)


def test_the_worst_copies_come_first() -> None:
    train, generated, _ = sets(False)
    report = evaluate(generated, train, resamples=1)
    assert [copy.row for copy in report.worst] == list(range(30))
    assert [copy.source for copy in report.worst] == list(range(100, 130))
    assert torch.equal(report.copies, report.sources)
    moved = generated + 0.01 * torch.randn_like(generated)
    distances = evaluate(moved, train, resamples=1)
    assert [copy.distance for copy in distances.worst] == sorted(distances.generated.distances.tolist())[:30]
    assert torch.equal(distances.copies, moved[[copy.row for copy in distances.worst]])


def test_resamples_are_uniform_functions_of_the_seed() -> None:
    rows = with_replacement(50, 0, 400, seed=3, purpose=TRAIN)
    counts = torch.bincount(rows.flatten(), minlength=50)
    # 20,000 draws into 50 cells: chi squared of 49 degrees of freedom is below 111 but once in a million.
    assert float((counts - 400).square().sum() / 400) < 111
    assert torch.equal(with_replacement(50, 100, 7, seed=3, purpose=TRAIN), rows[100:107])
    for seed, purpose in ((4, TRAIN), (3, HOLDOUT)):
        assert not torch.equal(with_replacement(50, 0, 400, seed=seed, purpose=purpose), rows)
    drawn = subset(50, 20, 1, seed=3, purpose=TRAIN)
    assert len(drawn.unique()) == 20
    assert torch.equal(subset(50, 10, 1, seed=3, purpose=TRAIN), drawn[:10])


def test_intervals_are_percentiles_of_explicit_resamples(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmkern.metrics._bootstrap._NUMBERS", 700)  # a few resamples at a time
    values = rng.normal(size=101).round(1)
    resamples = Resamples(101, 200, 5, GENERATED)
    of = torch.from_numpy(values)
    got = intervals({"mean": mean(of), "half": mean(of, over=2), "median": median(of)}, resamples, 0.9)
    explicit = values[with_replacement(101, 0, 200, seed=5, purpose=GENERATED).numpy()]
    for name, whole, drawn in (
        ("mean", values.mean(), explicit.mean(1)),
        ("half", values.mean() / 2, explicit.mean(1) / 2),
        ("median", np.median(values), np.median(explicit, 1)),
    ):
        ordered = np.sort(drawn)
        low, high = ordered[math.floor(0.05 * 199)], ordered[math.ceil(0.95 * 199)]
        assert got[name] == pytest.approx((whole, low, high), abs=1e-13)
    even = torch.tensor([4.0, 1.0, 3.0, 2.0])
    assert intervals({"m": median(even)}, Resamples(4, 1, 0, TRAIN), 0.9)["m"].value == float(even.median()) == 2.0


def test_the_copying_score_is_resampled_on_both_sides(rng: np.random.Generator) -> None:
    near, far = (rng.normal(size=n).round(1) for n in (40, 30))
    first, second = Resamples(40, 50, 1, GENERATED), Resamples(30, 50, 1, HOLDOUT)
    got = copying_score(torch.from_numpy(near), torch.from_numpy(far), first, second, 0.5)

    def score(a: np.ndarray, b: np.ndarray) -> float:
        return (mannwhitneyu(a, b).statistic - 600) / math.sqrt(40 * 30 * 71 / 12)

    drawn = np.sort(
        [
            score(near[a], far[b])
            for a, b in zip(
                with_replacement(40, 0, 50, seed=1, purpose=GENERATED).numpy(),
                with_replacement(30, 0, 50, seed=1, purpose=HOLDOUT).numpy(),
                strict=True,
            )
        ]
    )
    want = (score(near, far), drawn[math.floor(0.25 * 49)], drawn[math.ceil(0.75 * 49)])
    assert got == pytest.approx(want, rel=1e-12)


def test_intervals_are_as_wide_as_they_should_be() -> None:
    """Of a share: 1.96 standard errors each way. 1000 resamples give an end to about 5 % of that."""
    train, generated, _ = sets(False)
    found = evaluate(generated, train).generated.authenticity
    error = math.sqrt(found.value * (1 - found.value) / len(generated))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_seed_is_the_report_for_any_threads(threads) -> None:
    train, generated, holdout = sets(False)
    first = evaluate(generated, train, holdout=holdout, seed=1)
    threads(1)
    again = evaluate(generated, train, holdout=holdout, seed=1)
    other = evaluate(generated, train, holdout=holdout, seed=2)

    def ends(report: Report) -> list[float]:
        return [end for name in NUMBERS for end in getattr(report.generated, name)]

    assert ends(again) == pytest.approx(ends(first), rel=1e-12)  # sums of the intervals alone may differ in last bits
    assert ends(other) != ends(first)
    values = [[getattr(report.generated, name).value for name in NUMBERS] for report in (first, other)]
    assert values[0] == values[1]


def test_text_and_json_have_every_number() -> None:
    train, generated, holdout = sets(False)
    generated[:200] = train[realism(train, train).isinf()][0]  # so that the median realism is infinite
    report = evaluate(generated, train, holdout=holdout, resamples=20)
    found = json.loads(report.to_json())
    assert found == report.as_dict()
    assert found["generated"]["realism"]["value"] is None
    assert (found["k"], found["seed"], found["train"], found["dim"]) == (5, 0, 310, 4)
    assert len(found["worst"]) == 30
    for name in NUMBERS:
        line = next(line for line in str(report).splitlines() if line.startswith(name.replace("c_t", "C_T")))
        first = re.search(r"(\S+) \[(\S+), (\S+)\]", line).groups()
        value = getattr(report.generated, name)
        assert [float(one) for one in first] == pytest.approx(list(value), abs=5e-4)
        if name != "realism":
            assert list(found["generated"][name].values()) == list(value)
    assert "270 generated, 90 held out" in str(report)
    assert "held out" not in str(evaluate(generated, train, resamples=2))


@pytest.mark.parametrize("shape", [None, (8, 8), (1, 8, 8), (4, 4, 4), (7, 3, 3)])
def test_the_page_needs_nothing_beside_it(shape: tuple[int, ...] | None, tmp_path) -> None:
    dim = 63 if shape == (7, 3, 3) else 64
    train, generated = torch.rand(60, dim) * 200, torch.rand(50, dim) * 200
    generated[3] = train[9]
    report = evaluate(generated, train, holdout=torch.rand(40, dim) * 200, resamples=5, image_shape=shape)
    page = report.save(tmp_path / "report")
    html = page.read_text()
    names = ["curve", "distances", *(["worst"] if shape else [])]
    assert sorted(path.stem for path in page.parent.glob("*.png") if "-dark" not in path.stem) == names
    assert html.count("data:image/png;base64,") == 2 * len(names)
    assert not re.search(r"url\(|@import|<script|https?://", html)
    assert json.loads((page.parent / "report.json").read_text()) == report.as_dict()
    for name in NUMBERS:
        assert f"<dt>{name.replace('c_t', 'C_T')}</dt>" in html
    assert (">3</th>" in html.replace("\n", "")) == (shape is None)  # the copy's row stands in a table
    assert ("3 and 9" in html) == (shape is not None)


def test_pictures_of_copies_show_them(tmp_path) -> None:
    from matplotlib.image import imread

    train, generated = torch.rand(40, 64), torch.rand(40, 64)
    generated[5] = train[2]
    evaluate(generated, train, resamples=1, image_shape=(8, 8)).save(tmp_path)
    seen = imread(tmp_path / "worst.png")[..., 0]
    # Gaps are 0.14 of a side, one above the first row, five pairs a row (gmkern/report/pictures.py).
    side = seen.shape[1] / (5 * 2.56)
    centres = ((np.arange(8) + 0.5) / 8 * side).astype(int)
    for left in (0.21, 1.35):
        drawn = seen[np.ix_(centres + int(0.14 * side), centres + int(left * side))]
        assert np.corrcoef(drawn.ravel(), train[2].numpy())[0, 1] > 0.99


def test_no_matrix_of_all_pairs_is_held() -> None:
    """12,000 against 12,000: a float32 matrix would take 576 MB."""
    code = (
        "import resource, torch, gmkern\n"
        "x, y = torch.randn(12000, 8), torch.randn(12000, 8)\n"
        "gmkern.metrics.evaluate(x[:300], y[:300], resamples=10)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "gmkern.metrics.evaluate(x, y)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 350_000  # KB


def test_a_read_only_map_is_taken_as_it_is(tmp_path, recwarn) -> None:
    """The same report, and no copy of the file."""
    train, generated = np.random.default_rng(3).normal(size=(2, 300, 5)).astype(np.float32)
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    assert evaluate(generated, mapped, resamples=20).to_json() == evaluate(generated, train, resamples=20).to_json()
    assert _validate.tensor("train", mapped).data_ptr() == mapped.ctypes.data
    assert not recwarn.list


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"generated": torch.zeros(1, 3)}, ValueError, "^generated: .*N >= 2"),
        ({"holdout": torch.zeros(9, 2)}, ValueError, r"^holdout: .*\[N, 3\].*train"),
        ({"generated": torch.zeros(9, 3).double()}, TypeError, "^generated: .*float32"),
        ({"k": 9}, ValueError, "^k: got 9.*<= 8"),
        ({"holdout": torch.zeros(4, 3), "k": 4}, ValueError, "^k: got 4.*<= 3"),
        ({"level": 1.0}, ValueError, "^level: "),
        ({"level": 0.0}, ValueError, "^level: "),
        ({"resamples": 0}, ValueError, "^resamples: "),
        ({"seed": 0.5}, TypeError, "^seed: "),
        ({"tolerance": -1.0}, ValueError, "^tolerance: "),
        ({"image_shape": (2, 2)}, ValueError, r"^image_shape: got \(2, 2\)"),
        ({"image_shape": (3,)}, ValueError, r"^image_shape: got \(3,\)"),
        ({"progress": 1}, TypeError, "^progress: "),
        ({"train": torch.tensor([[0.0, 1.0, torch.nan]] * 9)}, ValueError, r"^train: got nan at \[0, 2\]"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        evaluate(**{"generated": torch.randn(9, 3), "train": torch.randn(20, 3), **change})
