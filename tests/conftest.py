"""Seeds, markers and fixtures for every test.

Each test's random numbers start from its own name and GMKERN_TEST_SEED (0 unless set), so that a test gives the same
inputs alone and in a full run, and another seed gives fresh ones.
"""

from __future__ import annotations

import os
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from gmkern import _backend
from gmkern.testing import supported_isas

TESTS = Path(__file__).parent
BASE_SEED = int(os.environ.get("GMKERN_TEST_SEED", "0"))
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# Examples that Hypothesis draws: few and the same ones in every run, or with --hypothesis-profile=long many new ones.
_SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("quick", max_examples=30, derandomize=True, database=None, **_SLOW)
settings.register_profile("long", max_examples=2000, derandomize=False, database=None, print_blob=True, **_SLOW)
settings.load_profile("quick")


def pytest_report_header() -> str:
    import gmkern

    return (
        f"gmkern {gmkern.__version__} from {Path(gmkern.__file__).parent}, {_backend.isa()}, "
        f"torch {torch.__version__}, GMKERN_TEST_SEED={BASE_SEED}"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    compiled = pytest.mark.skip(reason="runs in the interpreter: TRITON_INTERPRET=1 pytest tests/triton")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "isa" in getattr(item, "fixturenames", ()):
            item.add_marker("isas")
        if TESTS / "triton" in item.path.parents and not INTERPRETED:
            item.add_marker(compiled)


@pytest.fixture(params=supported_isas())
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set of this machine in turn, for gmkern.testing.run_isa(isa, ...)."""
    return request.param


@pytest.fixture
def test_seed(request: pytest.FixtureRequest) -> int:
    """An int of the test's own: a function of its name and of GMKERN_TEST_SEED."""
    return zlib.crc32(f"{BASE_SEED} {request.node.nodeid}".encode())


@pytest.fixture(autouse=True)
def _seeded(test_seed: int) -> None:
    torch.manual_seed(test_seed)
    np.random.seed(test_seed)
    random.seed(test_seed)


@pytest.fixture
def generator(test_seed: int) -> torch.Generator:
    """A torch generator for inputs: torch.randn(..., generator=generator)."""
    return torch.Generator().manual_seed(test_seed)


@pytest.fixture
def rng(test_seed: int) -> np.random.Generator:
    """The same for NumPy."""
    return np.random.default_rng(test_seed)


@pytest.fixture
def threads():
    """Sets torch's thread count for the test and puts it back: threads(1)."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
