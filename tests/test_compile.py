"""torch.compile, where it is asked for, changes no number beyond rounding."""

import shutil

import pytest
import torch
import torch.nn.functional as F

import gradevo as ge
from gradevo.engines import candidates
from gradevo.models import mlp
from gradevo.randomness import generator_from

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@COMPILER
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("engine", ["batched+compile", "vmap+compile"])
def test_compiled_losses_and_gradients_are_the_loops(engine):
    x = torch.randn(5, 7, 4, generator=generator_from(0))
    y = torch.randint(3, (5, 7), generator=generator_from(0))
    pops = [ge.Population(mlp(4, 6, 3), 5, generator=generator_from(1), engine=e)
            for e in ("loop", engine)]  # fmt: skip
    gradients = [pop.gradient() for pop in pops]
    losses = [pop.accumulate(F.cross_entropy, x, y, per_member=True) for pop in pops]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_auto_never_compiles_and_other_engines_cannot_be_compiled():
    pop = ge.Population(mlp(4, 6, 3), 5)
    assert not [name for name in candidates(pop) if "compile" in name]
    with pytest.raises(ValueError, match="engine: must be one of"):
        ge.Population(mlp(4, 6, 3), 5, engine="loop+compile")
