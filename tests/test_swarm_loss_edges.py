"""SwarmLoss: precision, random numbers, edges and errors."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import gradevo as ge
from gradevo.losses import LOSSES, zero_one
from gradevo.models import mlp
from gradevo.swarm import ESTIMATORS, REMPSO, SwarmLoss
from outputs import CLASSES, ROWS, gradient, labels, rows

# --- dtypes, modes, randomness ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_gradient_has_the_outputs_dtype(dtype):
    found = gradient(SwarmLoss(nn.MSELoss()), rows().to(dtype), rows(1).to(dtype))
    assert found.dtype == dtype and found.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_works_where_the_output_is():
    found = gradient(SwarmLoss(zero_one), rows().cuda(), labels().cuda())
    assert found.device.type == "cuda" and found.any()


def test_without_gradients_it_is_the_plain_loss_and_draws_nothing():
    calls = []

    def loss(output, target):
        calls.append(len(output))
        return zero_one(output, target)

    criterion = SwarmLoss(loss)
    with torch.no_grad():
        value = criterion(rows().requires_grad_(), labels())
    assert calls == [ROWS] and not value.requires_grad
    assert not len(criterion.get_extra_state())
    assert value == zero_one(rows(), labels()).mean()


def test_the_same_seed_gives_the_same_bits_and_leaves_global_random_state_alone():
    before = torch.get_rng_state()
    output, target = rows(), labels()
    first, second, other = (
        gradient(SwarmLoss(zero_one, seed=seed, iterations=2), output, target) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_state_dict_carries_the_random_numbers():
    output, target = rows(), labels()
    criterion, fresh = SwarmLoss(zero_one), SwarmLoss(zero_one)
    gradient(criterion, output, target)
    state = copy.deepcopy(criterion.state_dict())
    fresh.load_state_dict(state)
    following = gradient(criterion, output, target)
    assert torch.equal(following, gradient(fresh, output, target))
    criterion.load_state_dict(state)  # and back again
    assert torch.equal(following, gradient(criterion, output, target))


def test_a_model_that_holds_a_criterion_is_saved_as_safetensors(tmp_path):
    model = nn.ModuleDict({"layer": nn.Linear(2, 2), "loss": SwarmLoss(zero_one)})
    save_file(model.state_dict(), tmp_path / "before the first draw")
    model.load_state_dict(load_file(tmp_path / "before the first draw"))
    gradient(model["loss"], rows(), labels())
    save_file(model.state_dict(), tmp_path / "model")
    following = gradient(model["loss"], rows(), labels())
    model.load_state_dict(load_file(tmp_path / "model"))
    assert torch.equal(following, gradient(model["loss"], rows(), labels()))


def test_copies_and_pickles_go_on_with_the_same_bits():
    criterion, output, target = SwarmLoss(zero_one), rows(), labels()
    gradient(criterion, output, target)
    others = copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))
    following = gradient(criterion, output, target)
    assert all(torch.equal(following, gradient(other, output, target)) for other in others)


def test_inside_a_run_the_points_come_from_the_runs_seed(tmp_path):
    x = rows(shape=(60, 4))
    data = x, x[:, :CLASSES].argmax(1)
    used, fresh = SwarmLoss(zero_one), SwarmLoss(zero_one)
    gradient(used, rows(), labels())
    best = [
        ge.fit(
            ge.GADAM(population=2, generations=1, steps=3, batch_size=8),
            mlp(4, 5, CLASSES), criterion, data, seed=4, engine="loop",
        ).best.state_dict()
        for criterion in (used, fresh)
    ]  # fmt: skip
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


# --- precision, edges ------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["regression", "covariance", "rank", "tie"])
def test_autocast_does_not_blur_the_gradient(estimator):
    output, target = 100 + rows(), 100 + rows(1)
    expected = gradient(SwarmLoss(nn.MSELoss(), estimator=estimator), output, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(SwarmLoss(nn.MSELoss(), estimator=estimator), output, target)
    assert (found - expected).norm() < 0.01 * expected.norm()


def test_in_half_precision_losses_are_of_the_points_that_the_estimator_sees():
    output, target = 5 * rows(shape=(200, 3)), rows(1, (200, 3))
    expected = gradient(nn.MSELoss(), output, target)
    criterion = SwarmLoss(nn.MSELoss(), estimator="regression", particles=60, spread=0.1)
    found = gradient(criterion, output.bfloat16(), target.bfloat16()).float()
    assert torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.995


def test_a_batch_without_a_label_that_counts_has_no_gradient():
    ignored = torch.full((ROWS,), -100)
    for estimator in ("rank", "regression"):
        criterion = SwarmLoss(nn.CrossEntropyLoss(), estimator=estimator)
        assert not gradient(criterion, rows(), ignored).any()


@pytest.mark.parametrize("scope", ["row", "entry", "batch"])
def test_an_empty_batch_has_an_empty_gradient(scope):
    loss = nn.MSELoss(reduction="sum")
    assert gradient(SwarmLoss(loss, scope=scope), rows()[:0], rows()[:0]).shape == (0, CLASSES)


def test_a_member_that_diverged_does_not_stop_a_run():
    class Wild(nn.Module):
        built = 0

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)
            Wild.built += 1
            if Wild.built == 2:
                self.layer.weight.data.mul_(1e25)

        def forward(self, x):
            return self.layer(x)

    x = rows(shape=(60, 4))
    algorithm = ge.Independent(population=3, steps=5, batch_size=8)
    losses = ge.fit(algorithm, Wild, SwarmLoss(nn.MSELoss()), (x, x[:, :1]), engine="loop").losses
    assert losses.isfinite().tolist() == [True, True, False]


def test_another_loss_may_take_the_place_of_the_first():
    criterion = SwarmLoss(lambda output, target: output[:, 0])
    gradient(criterion, rows(), labels())
    criterion.loss = lambda output, target: -output[:, 0]
    assert (gradient(criterion, rows(), labels())[:, 0] < 0).all()


def test_what_is_lost_without_a_word_elsewhere_is_an_error_here():
    output, target = rows().requires_grad_(), labels()
    criterion = SwarmLoss(zero_one)
    with pytest.raises(RuntimeError, match=r"outside of torch\.func's transforms"):
        torch.func.vmap(lambda o: criterion(o, target))(output.expand(2, -1, -1))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(criterion(output, target), output, create_graph=True)


def test_the_papers_setting_is_the_papers():
    for criterion in (SwarmLoss.paper(nn.MSELoss()), ge.AdaSwarm.paper().criterion(nn.MSELoss())):
        dynamics = criterion.dynamics
        assert (dynamics.c1, dynamics.c2, dynamics.beta, criterion.eta) == (0.8, 0.9, 0.9, 0.1)
        assert (criterion.scope, criterion.estimator, criterion.iterations) == ("batch", "near", 10)
        assert criterion.evaluations == 110 and not dynamics.per_entry


def test_adaswarm_hands_all_its_settings_to_the_swarm_and_keeps_a_wrapped_loss():
    settings = {
        "scope": "entry", "particles": 7, "iterations": 2, "dynamics": REMPSO(),
        "estimator": "starred", "spread": 0.3, "bounds": (0.0, 2.0), "saturating": False,
        "eta": 0.2,
    }  # fmt: skip
    elsewhere = {"start": "range", "spread": None}
    for given in (settings, settings | elsewhere):
        criterion = ge.AdaSwarm(**given).criterion(nn.MSELoss())
        assert {name: getattr(criterion, name) for name in given} == given
    assert ge.AdaSwarm().criterion(criterion) is criterion


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_nan_at_some_points_is_survived(estimator):
    def loss(output, target):
        values = (output - target).square().sum(dim=1)
        values[::3] = torch.nan
        return values

    assert gradient(SwarmLoss(loss, estimator=estimator), rows(), rows(1)).isfinite().all()


def test_nan_at_all_points_is_an_error_that_says_so():
    criterion = SwarmLoss(lambda output, target: output.sum(dim=1) * torch.nan)
    with pytest.raises(ValueError, match=r"^loss: must be finite .* all 20 points of 6 swarms"):
        gradient(criterion, rows(), rows())


def test_nan_in_the_output_itself_is_nan_in_the_gradient_as_in_autograd():
    output = rows()
    output[1] = torch.nan
    found = gradient(SwarmLoss(nn.CrossEntropyLoss()), output, labels())
    assert found[1].isnan().all() and found[[0, 2, 3, 4, 5]].isfinite().all()


@pytest.mark.parametrize(
    ("scope", "loss", "message"),
    [
        ("row", lambda o, t: o.sum(), r"one value a row, shape \(6,\) .*got shape \(\); .*'batch'"),
        ("row", lambda o, t: o[:3].sum(1), r"one value a row.*got shape \(3,\)"),
        ("row", lambda o, t: 1.0, r"one value a row.*got float"),
        ("entry", lambda o, t: o.sum(1), r"one value an entry .*got \(120,\)"),
        ("batch", lambda o, t: o[:4], r"one number for the batch .*got shape \(4, 3\) for 6 rows"),
    ],
)
def test_a_wrong_shape_is_named_with_what_was_expected(scope, loss, message):
    with pytest.raises(ValueError, match=f"^loss: must return {message}"):
        gradient(SwarmLoss(loss, scope=scope), rows(), rows())


@pytest.mark.parametrize("target", [rows()[0], rows()[:4], {"of": rows()[:4]}, torch.tensor(1.0)])
def test_a_target_with_another_number_of_rows_is_named(target):
    criterion = SwarmLoss(lambda output, target: output.sum(dim=1))
    with pytest.raises(ValueError, match=r"^target: must have a row for each of the 6 rows"):
        gradient(criterion, rows(), target)


@pytest.mark.parametrize("target", [None, 3, (rows(), 2.0)])
def test_a_target_may_hold_what_is_no_tensor(target):
    criterion = SwarmLoss(lambda output, target: output.square().sum(dim=1))
    assert gradient(criterion, rows(), target).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scope", "column"),
        ("estimator", "guess"),
        ("start", "target"),
        ("start", "range"),
        ("particles", 1),
        ("iterations", -1),
        ("spread", 0.0),
        ("eta", float("nan")),
        ("bounds", (1.0, 0.0)),
        ("bounds", (0.0,)),
        ("bounds", (0.0, float("inf"))),
    ],
)
def test_an_argument_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"^{field}: "):
        SwarmLoss(nn.MSELoss(), **{field: value})


def test_a_loss_without_gradient_is_refused_by_fit_with_the_way_out():
    x = rows(shape=(40, 4))

    def loss(output, y):
        return zero_one(output, y).mean()

    with pytest.raises(ValueError, match=r"^loss: must have a gradient.*SwarmLoss"):
        ge.fit(ge.GADAM(population=2, batch_size=8), mlp(4, CLASSES), loss, (x, x[:, :3].argmax(1)))


def test_every_named_loss_trains_by_adaswarm():
    x = rows(shape=(120, 4))
    y = x[:, :CLASSES].argmax(1)
    for named in LOSSES.values():
        build = mlp(4, 8, CLASSES)
        algorithm = ge.AdaSwarm(
            steps=150, lr=0.02, batch_size=32, scope=named.scope,
            bounds=(0.0, 1.0) if named.probabilities else None,
        )  # fmt: skip
        network = (
            (lambda b=build: nn.Sequential(b(), nn.Sigmoid())) if named.probabilities else build
        )
        best = ge.fit(algorithm, network, named.loss, (x, y)).best
        with torch.no_grad():
            assert (best(x).argmax(1) == y).float().mean() > 0.8
