"""bfloat16 is an option: close to full precision, and nothing but the passes changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.models import mlp
from gradevo.randomness import generator_from


def population(engine, precision):
    return ge.Population(
        mlp(6, 32, 3), 4, generator=generator_from(1), engine=engine, precision=precision
    )


@pytest.mark.parametrize("engine", ["loop", "batched", "vmap", "loop@2", "auto"])
def test_passes_are_in_bfloat16_and_weights_and_gradients_are_not(engine):
    x = torch.randn(20, 6, generator=generator_from(2))
    y = torch.randint(3, (20,), generator=generator_from(3))
    seen, found = [], []

    def loss(output, target):
        seen.append(output.dtype)
        return F.cross_entropy(output, target)

    for precision in ("full", "bfloat16"):
        pop = population(engine, precision)
        gradient = pop.gradient()
        pop.accumulate(loss, x, y)
        found.append(gradient)
        assert gradient.dtype == pop.flat.dtype == torch.float32
    assert torch.bfloat16 in seen or engine == "vmap"  # which adds the bias in full
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, rtol=0.1, atol=0.01)
    assert population(engine, "bfloat16").select([0, 2]).precision == "bfloat16"


def test_simd_declines_bfloat16_and_an_unknown_precision_is_named():
    pop = population("simd", "bfloat16")
    with pytest.raises(ge.EngineError, match="autocast is on"):
        pop.losses(F.cross_entropy, torch.ones(2, 6), torch.zeros(2).long())
    with pytest.raises(ValueError, match="precision: must be one of full, bfloat16, got 'half'"):
        ge.Population(mlp(2, 1), 2, precision="half")


def test_a_run_in_bfloat16_learns():
    generator = generator_from(7)
    x = torch.randn(200, 6, generator=generator)
    y = (x @ torch.randn(6, 3, generator=generator)).argmax(1)
    dtypes = set()

    class Watching(nn.Linear):
        def forward(self, x):
            output = super().forward(x)
            dtypes.add(output.dtype)
            return output

    settings = ge.GADAM(population=3, generations=1, steps=40, batch_size=32)
    result = ge.fit(settings, lambda: Watching(6, 3), F.cross_entropy, (x, y), valid=(x, y),
                    engine="loop", precision="bfloat16")  # fmt: skip
    assert torch.bfloat16 in dtypes
    dtypes.clear()
    ge.fit(settings, lambda: Watching(6, 3), F.cross_entropy, (x, y), valid=(x, y), engine="loop")
    assert torch.bfloat16 not in dtypes
    assert float(result.losses[0]) < 0.6
