"""`gmkern evaluate`: files of each kind, the same numbers, and one line that says what is wrong with a bad one."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gmkern.cli.app import app
from gmkern.cli.loading import alike, load
from gmkern.metrics import evaluate


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture
def arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=(n, 6)).astype(np.float32) for name, n in (("g", 60), ("t", 90), ("h", 40))}


@pytest.fixture
def files(arrays: dict[str, np.ndarray], tmp_path: Path) -> dict[str, Path]:
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    return {name: tmp_path / f"{name}.npy" for name in arrays}


def test_the_numbers_are_evaluates(arrays, files, tmp_path):
    done = run(files["g"], files["t"], "--holdout", files["h"], "--k", 3, "--seed", 7, "--tolerance", 1, "--json")
    assert done.exit_code == 0, done.output
    want = evaluate(arrays["g"], arrays["t"], holdout=arrays["h"], k=3, seed=7, tolerance=1.0)
    assert json.loads(done.stdout) == want.as_dict()
    table = run(files["g"], files["t"], "--k", 3, "--out", tmp_path / "new" / "report")
    assert table.exit_code == 0, table.output
    line = next(line for line in table.stdout.splitlines() if line.strip().startswith("precision"))
    assert float(line.split()[1]) == pytest.approx(want.generated.precision.value, abs=5e-4)
    made = {path.name for path in (tmp_path / "new" / "report").iterdir()}
    assert {"index.html", "report.json", "distances.png", "curve.png"} <= made
    assert "worst.png" not in made


def test_every_kind_of_file_is_the_same_array(arrays, tmp_path):
    g, t = (torch.from_numpy(arrays[name]) for name in "gt")
    np.savez(tmp_path / "both.npz", fake=arrays["g"], real=arrays["t"])
    np.savez_compressed(tmp_path / "one.npz", arrays["g"])
    torch.save(g, tmp_path / "g.pt")
    torch.save(g, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"fake": g, "real": t, "epoch": 3}, tmp_path / "both.pt")
    np.save(tmp_path / "big_endian.npy", arrays["g"].astype(">f4"))
    np.save(tmp_path / "columns.npy", np.asfortranarray(arrays["g"]))
    for place in ("both.npz:fake", "one.npz", "g.pt", "old.pt", "both.pt:fake", "big_endian.npy", "columns.npy"):
        found = load(str(tmp_path / place))
        assert torch.equal(found.points, g), place
        assert found.shape == (6,)
    assert torch.equal(load(str(tmp_path / "both.pt:real")).points, t)


def test_large_arrays_are_mapped_and_never_written_to(tmp_path):
    path = tmp_path / "large.npy"
    np.save(path, np.zeros((1 << 15, 16), dtype=np.float32))
    before = path.read_bytes()
    points = load(str(path)).points
    assert str(path) in Path("/proc/self/maps").read_text()
    points += 1
    assert path.read_bytes() == before


def test_dtypes_meet_in_one_that_holds_them():
    tensors = {d: torch.ones(2, 1, dtype=d) for d in (torch.uint8, torch.int64, torch.float16, torch.float32)}
    byte, long, half, single = tensors.values()
    assert [one.dtype for one in alike(byte, half)] == [torch.float32] * 2
    assert [one.dtype for one in alike(single, long)] == [torch.float64] * 2
    assert [one.dtype for one in alike(half, half)] == [torch.float16] * 2
    assert [one.dtype for one in alike(half, half.bfloat16())] == [torch.float32] * 2


def pictures(folder: Path, values: np.ndarray) -> Path:
    folder.mkdir()
    for at, pixels in enumerate(values):
        Image.fromarray(pixels).save(folder / f"{at:03}.png")
    return folder


@pytest.mark.parametrize("colours", [(), (3,)])
def test_folders_of_images(colours, tmp_path, rng):
    train, generated = (rng.integers(0, 256, (n, 5, 7, *colours), dtype=np.uint8) for n in (40, 30))
    generated[4] = train[11]
    folders = [pictures(tmp_path / "g", generated), pictures(tmp_path / "t", train)]
    done = run(*folders, "--json", "--out", tmp_path / "report")
    assert done.exit_code == 0, done.output
    want = evaluate(generated.reshape(30, -1).astype("f4"), train.reshape(40, -1).astype("f4"))
    assert json.loads(done.stdout) == want.as_dict()
    assert json.loads(done.stdout)["worst"][0] == {"row": 4, "source": 11, "distance": 0.0, "ratio": 0.0}
    assert (tmp_path / "report" / "worst.png").exists()
    np.save(tmp_path / "g.npy", generated)  # the same images as an array
    again = run(tmp_path / "g.npy", folders[1], "--json")
    assert json.loads(again.stdout) == want.as_dict()


def test_colour_and_grey_meet_as_colour(tmp_path, rng):
    folder = pictures(tmp_path / "mixed", rng.integers(0, 256, (2, 4, 4), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(folder / "colour.bmp")
    found = load(str(folder))
    assert found.shape == (4, 4, 3)
    grey = found.points[0].view(4, 4, 3)
    assert torch.equal(grey[..., 0], grey[..., 2])


def claims_a_terabyte(path: Path) -> None:
    np.save(path, np.zeros((9, 6), "f4"))
    path.write_bytes(path.read_bytes().replace(b"(9, 6), }           ", b"(50000000000, 6), } "))


def archive_of_text(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("read.txt", "me")


def bad_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/gmkern_was_here"),))


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.npy", lambda path: None, "none.npy: no such file"),
        ("empty.npy", lambda path: path.touch(), "empty.npy: the file is empty"),
        ("empty.npz", lambda path: path.touch(), "empty.npz: the file is empty"),
        ("empty.pt", lambda path: path.touch(), "empty.pt: the file is empty"),
        ("text.npy", lambda path: path.write_text("1 2 3 4 5 6 7 8"), "text.npy: "),
        ("text.npz", lambda path: path.write_text("1 2 3 4 5 6 7 8"), "text.npz: "),
        ("text.pt", lambda path: path.write_text("1 2 3 4 5 6 7 8"), "text.pt: "),
        ("x.csv", lambda path: path.write_text("1,2"), "x.csv: takes .npy, .npz, .pt"),
        ("object.npy", bad_pickle, "object.npy: holds pickled objects"),
        ("pickle.npy", lambda path: path.write_bytes(pickle.dumps(Evil())), "pickle.npy: holds pickled objects"),
        ("pickle.pt", lambda path: torch.save(Evil(), path), "pickle.pt: holds more than tensors"),
        ("flat.npy", lambda path: np.save(path, np.zeros(5)), "flat.npy: holds shape [5]"),
        ("rows.npy", lambda path: np.save(path, np.zeros((0, 6))), "rows.npy: holds shape [0, 6]"),
        ("text_array.npy", lambda path: np.save(path, np.array([["a"]])), "text_array.npy: holds dtype <U1"),
        ("complex.npy", lambda path: np.save(path, np.zeros((4, 6), complex)), "complex.npy: holds complex128"),
        ("wide.npy", lambda path: np.save(path, np.zeros((9, 7))), "wide.npy: samples of shape [7], but "),
        ("two.npz", lambda path: np.savez(path, a=np.zeros(1), b=np.zeros(1)), "two.npz: holds a, b; name one"),
        ("two.npz:c", lambda path: np.savez(path.parent / "two.npz", a=np.zeros(1)), "'c' is none of them"),
        ("none.npz", lambda path: np.savez(path), "none.npz: holds no array"),
        ("list.pt", lambda path: torch.save([torch.zeros(3)], path), "list.pt: holds no dense tensor"),
        ("eight.pt", lambda path: torch.save(torch.zeros(9, 6).to(torch.float8_e5m2), path), "holds dtype float8_e5m2"),
        ("text.npz", archive_of_text, "text.npz: holds something that is not an array"),
        ("terabyte.npy", claims_a_terabyte, "terabyte.npy: not a readable .npy file"),
        (f"{'long' * 99}.npy", lambda path: None, ".npy: no such file"),
        ("one.npy", lambda path: np.save(path, np.zeros((1, 6), "f4")), "one.npy: got a tensor of shape [1, 6]"),
        ("nan.npy", lambda path: np.save(path, np.full((9, 6), np.nan)), "nan.npy: got nan at [0, 0]"),
        ("folder", lambda path: path.mkdir(), "folder: holds no images"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(name, make, says, files, tmp_path):
    make(tmp_path / name)
    done = run(tmp_path / name, files["t"])
    assert done.exit_code == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not Path("/tmp/gmkern_was_here").exists()


def test_where_the_nan_is(arrays, files, tmp_path):
    arrays["h"][13, 2] = np.inf
    np.save(files["h"], arrays["h"])
    done = run(files["g"], files["t"], "--holdout", files["h"])
    assert done.exit_code == 1
    assert f"{files['h']}: got inf at [13, 2]" in done.stderr


def test_images_of_two_sizes_and_broken_ones_are_named(tmp_path, rng):
    folder = pictures(tmp_path / "g", rng.integers(0, 256, (3, 4, 4), dtype=np.uint8))
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(folder / "002.png")
    done = run(folder, folder)
    assert done.exit_code == 1
    assert "002.png: 5 × 4 pixels, but 000.png has 4 × 4" in done.stderr
    (folder / "002.png").write_bytes(b"not a picture")
    done = run(folder, folder)
    assert done.exit_code == 1
    assert "002.png: not a readable image" in done.stderr
    whole = (folder / "001.png").read_bytes()
    (folder / "002.png").write_bytes(whole[:-30])
    done = run(folder, folder)
    assert done.exit_code == 1
    assert "002.png: not a readable image" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (("--k", 0), 2, "--k"),
        (("--k", 60), 1, "--k: got 60; takes an int >= 1 and <= 59"),
        (("--seed", "one"), 2, "--seed"),
        (("--tolerance", -1), 2, "--tolerance"),
        (("--tolerance", "nan"), 1, "--tolerance"),
        (("--out", __file__), 2, "--out"),
        (("--holdout", "nowhere.npy"), 1, "nowhere.npy"),
        (("--out", f"{__file__}/x"), 1, "--out"),
    ],
)
def test_wrong_arguments_are_named(words, code, named, files):
    done = run(files["g"], files["t"], *words)
    assert done.exit_code == code
    assert named in done.stderr
    assert done.stdout == ""
