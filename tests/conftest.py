"""One torch thread a test worker: two workers share two cores."""

import pytest
import torch

from gradevo.engines import choose

torch.set_num_threads(1)


@pytest.fixture
def seeded():
    """Fresh layers draw their weights from the global generator: always the same ones here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def forgetful():
    """Every test measures anew."""
    choose._remembered.clear()
    yield
    choose._remembered.clear()
