"""The demo, trained for a few seconds: its numbers mean what they say, and its page holds together."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import multivariate_normal

from gmkern.cli.app import app
from gmkern.demo import QUICK, boltzmann, clouds, digits, flow, judge, latent, mixture, pixels, report, run
from gmkern.demo.compare import Timing
from gmkern.demo.processes import PROCESSES
from gmkern.demo.run import HELD_OUT

PICTURES = 13  # intervals, ten sets of pairs, paths, times


@pytest.fixture(scope="module")
def result():
    return run(seed=1, size=QUICK)


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    place = tmp_path_factory.mktemp("demo") / "report"
    report.write(result, place)
    return place


def row(result, name):
    return next(one for one in result.judged if one.name == name)


def test_a_copier_is_caught(result):
    """The planted control: all it gives is in the training set."""
    copier = row(result, "copies").scores
    for name, value in (("precision", 1), ("distance", 0), ("authenticity", 0), ("duplicates", 1)):
        assert getattr(copier, name) == (value, value, value), name
    assert copier.c_t.high < -5


def test_noise_has_no_fidelity(result):
    noise = row(result, "noise").scores
    assert noise.precision == (0, 0, 0)
    assert noise.coverage == (0, 0, 0)
    assert noise.authenticity.value == 1


def test_held_out_digits_look_like_training_digits(result):
    """A held-out image and a training image are as near to the others as each other; as clouds, nearly so."""
    held_out, as_clouds = row(result, HELD_OUT).scores, row(result, "held-out, as clouds").scores
    assert held_out.precision.low < 0.97 < held_out.precision.high
    assert 0.8 < held_out.density.value < 1.2
    assert held_out.authenticity.low < 0.6 < held_out.authenticity.high
    assert held_out.distance.value < as_clouds.distance.value < 1.3 * held_out.distance.value
    assert as_clouds.precision.value > 0.75


def test_what_trains_in_a_second_learns_and_does_not_copy(result):
    noise = row(result, "noise").scores.distance.value
    for process in PROCESSES:
        scores = row(result, process.name).scores
        assert scores.distance.value < noise, process.name
        assert scores.duplicates.value == 0, process.name
    for name in ("latent decoder", "mixture of Gaussians"):
        assert row(result, name).scores.precision.value > 0.5, name


def test_rows_are_judged_on_equal_counts(result):
    assert [len(one.images) for one in result.judged] == [QUICK.images] * (len(PROCESSES) + 4)
    assert all(one.images.dtype == torch.long and int(one.images.min()) >= 0 for one in result.judged)
    assert all(int(one.images.max()) < digits.LEVELS for one in result.judged)


@pytest.mark.parametrize("at", range(len(PROCESSES)), ids=[process.name for process in PROCESSES])
def test_an_image_is_a_function_of_the_seed_and_its_number(result, at):
    process, model = PROCESSES[at], result.models[at]
    more, fewer, other = (process.draw(model, n, seed=seed) for n, seed in ((7, 5), (3, 5), (7, 6)))
    assert torch.equal(more[:3], fewer)
    assert not torch.equal(more, other)


def test_a_mixture_trained_again_is_the_same(result):
    first, again, other = (
        mixture.draw(mixture.train(result.digits, steps=2, seed=seed, advance=lambda done: None), 5, seed=0)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bits_are_found_by_another_way(result):
    """The transformer's and the mixture's bits in float64, from their definitions."""
    images, names = result.digits.held_out[:3], [process.name for process in PROCESSES]
    model = copy.deepcopy(result.models[names.index("pixel transformer")]).double()
    logs = []
    with torch.no_grad():
        for digit in range(10):
            logits = model(torch.cat([torch.full((3, 1), digit), images[:, :-1]], 1))
            logs.append(logits.log_softmax(-1).gather(2, images[..., None])[..., 0].sum(1))
    want = -(torch.logsumexp(torch.stack(logs), 0) - np.log(10)) / (64 * np.log(2))
    # fp32 sums of 64 log-probabilities of about 2 with logits' errors of 1e-5 each at most.
    np.testing.assert_allclose(pixels.bits(result.models[names.index("pixel transformer")], images), want, atol=1e-4)
    mixed = result.models[names.index("mixture of Gaussians")]
    points = digits.dequantised(images).double().numpy()
    parts = [
        np.log(weight) + multivariate_normal(mean, mixed.covariance.numpy()).logpdf(points)
        for weight, mean in zip(mixed.weights.tolist(), mixed.means.numpy(), strict=True)
    ]
    want = -np.logaddexp.reduce(parts, 0) / (64 * np.log(2)) + 3  # a level is 1/8: log2 8 bits a pixel
    np.testing.assert_allclose(mixture.bits(mixed, images), want, rtol=1e-9)


def test_the_bits_of_flows_and_bounds_are_those_of_gaussians():
    """A field that is zero leaves N(0, I); an autoencoder of nothing is N(0, I) too, whatever z."""
    images = digits.load(200).held_out
    points = digits.dequantised(images)
    want = ((points**2).double().sum(1) / 2 + 32 * np.log(2 * np.pi)) / (64 * np.log(2)) + 3
    still, nothing = flow.Velocity(), latent.Autoencoder()
    for parameter in (*still.parameters(), *nothing.parameters()):
        torch.nn.init.zeros_(parameter)
    np.testing.assert_allclose(flow.bits(still, images, seed=0), want, rtol=1e-5)  # sums of 64 in fp32
    np.testing.assert_allclose(latent.bits(nothing, images, seed=0), want, rtol=1e-5)


def test_a_cloud_has_the_ink_of_its_image():
    """Rasterised, the points of a pixel weigh what its ink does, to a point and its four shares."""
    images = digits.load().held_out[:50]
    draw = torch.Generator().manual_seed(0)
    middles = torch.full((50, clouds.POINTS, 2), 0.5)
    cloud = clouds.of_images(images, torch.rand(50, generator=draw), middles)
    point = clouds.INK / clouds.POINTS
    want = images * (clouds.INK / images.sum(1, keepdim=True))
    off = (clouds.rasterised(cloud) - want.clamp_max(16)).abs()
    assert float(off.max()) <= point + 0.5  # systematic: each pixel's points, to the next whole number; then rounding


def test_the_force_does_not_know_the_order_of_points():
    torch.manual_seed(0)
    field = clouds.Force().eval()
    torch.nn.init.normal_(field.leave.weight)
    field.digits = torch.tensor([3, 8])
    x, t, order = torch.randn(2, clouds.POINTS, 2), torch.rand(2), torch.randperm(clouds.POINTS)
    with torch.no_grad():
        moved, shuffled = field(x, t), field(x[:, order], t)
    assert float(moved.abs().max()) > 0.1
    torch.testing.assert_close(shuffled, moved[:, order], rtol=1e-4, atol=1e-4)  # sums of 64 terms in another order


def test_machine_levels_go_there_and_back():
    greys = boltzmann._GREYS
    units = torch.stack([greys > threshold for threshold in boltzmann.THRESHOLDS]).long()
    assert torch.equal(greys[units.sum(0)], greys)


def test_the_split_is_disjoint_and_complete():
    split = digits.load(500)
    assert (len(split.train), len(split.held_out)) == (1297, 500)
    whole = torch.cat([split.train, split.held_out])
    assert (int(whole.min()), int(whole.max())) == (0, digits.LEVELS - 1)
    from sklearn.datasets import load_digits

    assert sorted(map(tuple, whole.tolist())) == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_kernels_and_reference_agree(result):
    names = [*(process.name for process in PROCESSES), "neighbours", "Lennard-Jones"]
    assert [timing.name for timing in result.timings] == names
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
    assert len(Sources.found) == 2 * PICTURES  # light and dark
    assert all(source.startswith("data:image/png;base64,") for source in Sources.found)
    assert not re.search(r"url\(|@import|<script", html)
    for one in result.judged:
        assert one.name in html
        assert all(number in html and note in html for number, note in report.verdict_texts(one))


def test_the_pictures_show_the_images(folder, result):
    """The picture of pairs has ink where the digits have: it is read back and compared with them."""
    from matplotlib.image import imread

    assert len(list(folder.glob("*.png"))) == 2 * PICTURES
    page, first = imread(folder / "held-out-digits.png")[..., 0], result.judged[0]
    # The first pair: gap 0.14 of a side, four rows and five columns of pairs (gmkern/report/pictures.py).
    side = page.shape[1] / (5 * 2.56)
    for image, left in ((first.images[0], 0.21), (result.digits.train[first.scores.nearest[0]], 1.35)):
        centres = ((np.arange(8) + 0.5) / 8 * side).astype(int)
        seen = page[np.ix_(centres + int(0.14 * side), centres + int(left * side))]
        assert np.corrcoef(seen.ravel(), -image.numpy())[0, 1] > 0.99


def test_copies_are_framed(folder):
    """Orange, the mark, is in the copier's picture alone."""
    from matplotlib.colors import to_rgb
    from matplotlib.image import imread

    from gmkern.report.pictures import LIGHT

    mark = np.array(to_rgb(LIGHT.hues[2]))
    for name in ("copies", "mixture-of-Gaussians"):
        found = (np.abs(imread(folder / f"{name}.png")[..., :3] - mark) < 0.02).all(-1)
        assert (found.mean() > 0.01) == (name == "copies"), name
        assert (found[: len(found) // 20].mean(1).max() > 0.5) == (name == "copies"), (
            name
        )  # the first row's upper edges


def test_the_command_prints_numbers_for_programs(tmp_path, monkeypatch, result):
    """--json: the numbers of report.json, and nothing else on standard output."""
    monkeypatch.setattr("gmkern.demo.run", lambda **_: result)
    monkeypatch.setattr("gmkern.demo.report.page", lambda result: None)
    monkeypatch.setattr("gmkern.report.write", lambda page, folder: [folder / "index.html"])
    done = CliRunner().invoke(app, ["demo", "--quick", "--json", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    numbers = json.loads(done.stdout)
    assert json.loads((tmp_path / "report.json").read_text()).items() <= numbers.items()
    for one, line in zip(result.judged, numbers["table"], strict=True):
        assert (line["name"], line["kind"], line["images"]) == (one.name, one.kind, len(one.images))
        for name in judge.NUMBERS:
            assert line[name] == getattr(one.scores, name)._asdict()
    assert [time["name"] for time in numbers["times"]] == [timing.name for timing in result.timings]


def test_the_command_prints_the_table(tmp_path, monkeypatch, result):
    monkeypatch.setattr("gmkern.demo.run", lambda **_: result)
    monkeypatch.setattr("gmkern.demo.report.page", lambda result: None)
    monkeypatch.setattr("gmkern.report.write", lambda page, folder: [folder / "index.html"])
    done = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for one in result.judged:
        first = one.name.split()[0]
        lines = [line for line in done.stdout.splitlines() if line.strip().startswith(first)]
        numbers = [text for pair in report.verdict_texts(one)[:3] for text in pair]
        assert any(" ".join(numbers) in " ".join(line.split()) for line in lines), one.name
