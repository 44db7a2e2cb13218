import pytest
import torch
from torch import nn

import gradevo as ge
from gradevo.denormals import flushed

TINY = torch.finfo(torch.float32).tiny / 4


def denormals_survive() -> bool:
    return bool(torch.tensor(TINY * 4) / 4 != 0)


@pytest.fixture
def processor_flushes():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    torch.set_flush_denormal(False)


def test_denormals_are_zero_in_the_block_and_only_there(processor_flushes):
    assert denormals_survive()
    with flushed():
        assert not denormals_survive()
        with flushed():
            pass
        assert not denormals_survive()
    assert denormals_survive()


def test_a_run_flushes_them_and_leaves_the_setting_as_it_was(processor_flushes):
    seen = []
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    algorithm = ge.GADAM(population=2, generations=1, steps=1, batch_size=4)

    def note(info):
        seen.append(denormals_survive())

    ge.fit(algorithm, lambda: nn.Linear(2, 1), nn.MSELoss(), (x, x[:, :1]), callbacks=[note])
    assert seen and not any(seen)
    assert denormals_survive()


def test_the_setting_is_put_back_after_an_error(processor_flushes):
    with pytest.raises(RuntimeError), flushed():
        raise RuntimeError
    assert denormals_survive()
