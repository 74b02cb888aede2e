"""The demo, trained for a few seconds: its numbers mean what they say, and its page holds together."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gmkern.cli.app import app
from gmkern.demo import Size, digits, judge, report, run
from gmkern.demo.compare import Timing

SMALL = Size(samples=150, held_out=500, transformer_steps=60, flow_steps=400, atom_steps=20)


@pytest.fixture(scope="module")
def result():
    return run(seed=1, size=SMALL)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    place = tmp_path_factory.mktemp("demo") / "report"
    report.write(result, place)
    return place


def row(result, name):
    return next(row for row in result.rows if row.name == name)


def test_a_copier_is_caught(result):
    """The planted control: all it gives is in the training set."""
    copier = row(result, "copies of training digits")
    assert (copier.precision, copier.distance, copier.authenticity) == (1.0, 0.0, 0.0)


def test_scattered_pixels_have_no_fidelity(result):
    scattered = row(result, "scattered pixels")
    assert scattered.precision < 0.05
    assert scattered.coverage < 0.05
    assert scattered.authenticity > 0.95


def test_held_out_digits_look_like_training_digits(result):
    held_out = row(result, "held-out digits")
    # Both are draws of one set: a held-out image and a training image are as near to the others as each other.
    assert 0.9 < held_out.precision <= 1.0
    assert 0.8 < held_out.density < 1.2
    assert 0.4 < held_out.authenticity < 0.7
    assert held_out.distance > 10


def test_the_processes_learn_and_do_not_copy(result):
    scattered, held_out = row(result, "scattered pixels"), row(result, "held-out digits")
    for name in ("pixel transformer", "flow matching"):
        process = row(result, name)
        assert held_out.distance < process.distance < scattered.distance
        assert process.authenticity > held_out.authenticity  # so little training memorises nothing
    assert row(result, "flow matching").precision > 0.3


def test_rows_are_judged_on_equal_counts(result):
    assert result.batch == SMALL.samples
    assert [row.images for row in result.rows] == [500, 150, 150, 150, 150]


def test_a_row_agrees_with_an_independent_computation(result):
    """Nearest distances and authenticity of the held-out images, in float64 NumPy from differences."""
    train, held = (part.numpy().astype(np.float64) for part in (result.digits.train, result.digits.held_out[:100]))
    to_train = np.sqrt(((held[:, None] - train[None]) ** 2).sum(-1))
    nearest = to_train.argmin(1)
    to_others = np.sqrt(((train[nearest][:, None] - train[None]) ** 2).sum(-1))
    to_others[np.arange(len(held)), nearest] = np.inf
    found = judge.judge("some", result.digits.held_out[:100], result.digits.train, batch=100)
    assert found.nearest.tolist() == nearest.tolist()
    assert found.row.distance == pytest.approx(float(torch.tensor(to_train.min(1)).median()), rel=1e-6)
    assert found.row.authenticity == pytest.approx((to_train.min(1) > to_others.min(1)).mean())


def test_the_split_is_disjoint_and_complete():
    split = digits.load(500)
    assert (len(split.train), len(split.held_out)) == (1297, 500)
    whole = torch.cat([split.train, split.held_out])
    assert (int(whole.min()), int(whole.max())) == (0, digits.LEVELS - 1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_a_seed_is_the_images():
    size = Size(samples=20, held_out=100, transformer_steps=5, flow_steps=10, atom_steps=1)
    first, again, other = (run(seed=seed, size=size) for seed in (1, 1, 2))
    for name, one, same, another in zip(first.rows, first.judged, again.judged, other.judged, strict=True):
        assert torch.equal(one.images, same.images), name
        if name.name != "held-out digits":
            assert not torch.equal(one.images, another.images), name


def test_kernels_and_reference_agree(result):
    assert [timing.name for timing in result.timings] == [
        "neighbors",
        "decode",
        "dynamics, Lennard-Jones",
        "dynamics, learnt flow",
    ]
    for timing in result.timings:
        assert timing.agrees, f"{timing.name}: {timing.check}"
        assert timing.speedup == pytest.approx(timing.reference / timing.kernel)


def test_no_speedup_is_claimed_for_a_different_answer():
    timing = Timing("neighbors", "some", kernel=1.0, reference=9.0, check="7 of 9 equal", agrees=False)
    assert timing.speedup is None
    assert report.speedup_text(timing.speedup) == "—"


@pytest.mark.parametrize(
    ("seconds", "text"), [(1.84, "1.8 s"), (12.3, "12 s"), (0.0345, "34 ms"), (0.00123, "1.2 ms"), (4.5e-7, "0.45 µs")]
)
def test_times_read_well(seconds, text):
    assert report.seconds_text(seconds) == text


def test_the_page_needs_nothing_beside_it(folder, result):
    html = (folder / "index.html").read_text()

    class Sources(HTMLParser):
        found: list[str] = []  # noqa: RUF012  one parser, used once

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "srcset", "href")]
            if tag == "img":
                assert dict(attributes)["alt"]

    Sources().feed(html)
    assert len(Sources.found) == 10  # five pictures, light and dark
    assert all(source.startswith("data:image/png;base64,") for source in Sources.found)
    assert not re.search(r"url\(|@import|<script", html)
    for row in result.rows:
        assert row.name in html
        assert all(number in html for number in report.numbers(row))


def test_the_pictures_show_the_images(folder, result):
    """The picture of pairs has ink where the digits have: it is read back and compared with them."""
    from matplotlib.image import imread

    assert len(list(folder.glob("*.png"))) == 10
    page, first = imread(folder / "held-out-digits.png")[..., 0], result.judged[0]
    # The first pair: gap 0.14 of a side, six rows and five columns of pairs (gmkern/report/pictures.py).
    side = page.shape[1] / (5 * 2.56)
    for image, left in ((first.images[0], 0.21), (result.digits.train[first.nearest[0]], 1.35)):
        centres = ((np.arange(8) + 0.5) / 8 * side).astype(int)
        seen = page[np.ix_(centres + int(0.02 * side), centres + int(left * side))]
        assert np.corrcoef(seen.ravel(), -image.numpy())[0, 1] > 0.99


def test_the_command_prints_numbers_for_programs(tmp_path, monkeypatch, result):
    """--json: the same numbers as the page's, and nothing else on standard output."""
    monkeypatch.setattr("gmkern.demo.run", lambda **_: result)
    done = CliRunner().invoke(app, ["demo", "--quick", "--json", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert numbers["table"] == [row._asdict() for row in result.rows]
    assert [time["name"] for time in numbers["times"]] == [timing.name for timing in result.timings]
    assert (tmp_path / "index.html").exists()


def test_the_command_prints_the_table(tmp_path, monkeypatch, result):
    monkeypatch.setattr("gmkern.demo.run", lambda **_: result)
    done = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for row in result.rows:
        line = next(line for line in done.stdout.splitlines() if row.name in line)
        assert line.split()[-6:] == report.numbers(row)
