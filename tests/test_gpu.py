"""On a GPU: the same engines, the loop's numbers, exact resume; skipped where there is none."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradevo as ge
from gradevo.models import LeNet5, mlp
from gradevo.randomness import generator_from
from layers import LAYERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
G, ROWS = 5, 7


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("engine", ["batched", "batched/2"])
def test_batched_layers_give_the_loops_numbers(kind, engine):
    build, shape = LAYERS[kind]
    generator = generator_from(0)
    x = torch.randn(G, ROWS, *shape, generator=generator, dtype=torch.float64).cuda()
    y = torch.randint(3, (G, ROWS), generator=generator).cuda()
    found = []
    for name in ("loop", engine):
        pop = ge.Population(build, G, generator=generator_from(1), engine=name).double().cuda()
        gradient = pop.gradient()
        losses = pop.accumulate(F.cross_entropy, x.clone(), y, per_member=True)
        found.append([losses, gradient, *pop.tensors.values()])
    for mine, theirs in zip(*found, strict=True):
        close(mine, theirs)


def test_dropout_on_a_gpu_differs_between_members_and_follows_the_seed():
    pop = ge.Population(lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 1)), 3,
                        engine="batched").cuda()  # fmt: skip
    x, found = torch.ones(8, 64, device="cuda"), []
    for seed in (1, 1, 2):
        gradient = pop.gradient()
        torch.cuda.manual_seed(seed)
        pop.accumulate(F.mse_loss, x, x[:, :1])
        found.append(gradient)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    weights = pop.leaves["1.weight"].grad
    assert weights is not None
    assert not torch.equal(weights[0] == 0, weights[1] == 0)


def test_auto_chooses_an_engine_and_simd_says_that_it_is_for_the_cpu():
    pop = ge.Population(mlp(4, 8, 3), G, engine="auto").cuda()
    x, y = torch.randn(6, 4, device="cuda"), torch.randint(3, (6,), device="cuda")
    pop.losses(F.cross_entropy, x, y)
    assert pop.engine in ("loop", "vmap", "batched")
    assert "on the CPU" in str(pop.choice.report["simd"])
    assert not any("@" in name for name in pop.choice.report)


@pytest.mark.parametrize("build", [mlp(4, 8, 3), lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)),
                                   nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(4, 3))])  # fmt: skip
def test_a_run_on_a_gpu_learns_and_its_result_is_an_ordinary_module(build):
    generator = generator_from(7)
    x = torch.randn(200, 4, generator=generator)
    y = (x @ torch.randn(4, 3, generator=generator)).argmax(1)
    result = ge.fit(ge.GADAM(population=4, generations=2, steps=60, batch_size=32), build,
                    F.cross_entropy, (x, y), valid=(x, y), device="cuda")  # fmt: skip
    assert float(result.losses[0]) < 0.7
    assert result.best(x.to(next(result.best.parameters()).device)).shape == (200, 3)


def test_lenet_takes_a_step_in_bfloat16():
    pop = ge.Population(LeNet5, 4, engine="batched/2", precision="bfloat16").cuda()
    x = torch.randn(16, 1, 28, 28, device="cuda")
    gradient = pop.gradient()
    losses = pop.accumulate(F.cross_entropy, x, torch.randint(10, (16,), device="cuda"))
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
