"""SwarmLoss: a criterion whose gradient comes from evaluations."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

import gradevo as ge
from gradevo.losses import LOSSES, OneHot, f1, zero_one
from gradevo.models import mlp
from gradevo.randomness import generator_from
from gradevo.swarm import ESTIMATORS, REMPSO, SwarmLoss

ROWS, CLASSES = 6, 3
SLOPES = ["regression", "covariance"]
DIRECTIONS = ["rank", "tie"]


def rows(seed=0, shape=(ROWS, CLASSES), dtype=torch.float32):
    return torch.randn(shape, generator=generator_from(seed), dtype=dtype)


def labels(shape=(ROWS,), seed=1):
    return torch.randint(CLASSES, shape, generator=generator_from(seed))


def gradient(criterion, output, target, upstream=1.0):
    output = output.clone().requires_grad_()
    (upstream * criterion(output, target)).backward()
    return output.grad


def fine(loss, **more):
    """Enough near points for a plane through them to be the tangent."""
    return SwarmLoss(loss, estimator="regression", particles=60, spread=0.01, **more)


# --- against autograd, where there is one ---------------------------------------------------

LABELLED = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "class weights": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0])),
    "ignored labels": nn.CrossEntropyLoss(ignore_index=1),
    "weights, ignored": nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 3.0]), ignore_index=-5),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "a function": F.cross_entropy,
}


@pytest.mark.parametrize("loss", LABELLED.values(), ids=LABELLED.keys())
def test_regression_gives_autograds_gradient_for_criteria_of_labels(loss):
    output, target = rows(dtype=torch.float64), labels()
    if getattr(loss, "ignore_index", 0) == -5:
        target[2] = -5
    loss = copy.deepcopy(loss).double() if isinstance(loss, nn.Module) else loss
    expected = gradient(loss, output, target)
    found = gradient(fine(loss), output, target)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.01 * float(expected.abs().max()))


ENTRYWISE = {
    "mse": nn.MSELoss(),
    "mse, sum": nn.MSELoss(reduction="sum"),
    "huber": nn.SmoothL1Loss(),
    "divergence": nn.KLDivLoss(reduction="batchmean"),
    "logits": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)),
    "a function": F.mse_loss,
    "not reduced": lambda output, target: (output - target) ** 2,
    "a value a row": lambda output, target: (output - target).square().sum(dim=1),
}


@pytest.mark.parametrize("scope", ["row", "entry"])
@pytest.mark.parametrize("shape", [(5, 3), (5,), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_regression_gives_autograds_gradient_for_criteria_of_entries(name, shape, scope):
    loss = ENTRYWISE[name]
    one_number_a_row = name == "a value a row"
    if (name in ("logits", "a value a row") and shape != (5, 3)) or (
        scope == "entry" and one_number_a_row
    ):
        pytest.skip("this loss is for two axes, or has no value an entry")
    output, target = rows(shape=shape, dtype=torch.float64), rows(1, shape, torch.float64).sigmoid()

    def mean(output, target):
        return loss(output, target).mean()

    expected = gradient(mean, output, target)
    found = gradient(fine(loss, scope=scope), output, target)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_every_pixel_of_a_label_map_is_a_row():
    output, target = rows(shape=(2, CLASSES, 4, 5), dtype=torch.float64), labels((2, 4, 5))
    target[0, 0] = -100
    loss = nn.CrossEntropyLoss()
    found = gradient(fine(loss), output, target)
    torch.testing.assert_close(found, gradient(loss, output, target), rtol=0.05, atol=2e-4)
    assert not found[0, :, 0].any()


def test_a_loss_of_the_batch_has_autograds_gradient():
    def correlation(output, target):
        return 1 - torch.corrcoef(torch.stack([output, target]))[0, 1]

    output, target = rows(shape=(20,), dtype=torch.float64), rows(1, (20,), torch.float64)
    found = gradient(fine(correlation, scope="batch"), output, target)
    torch.testing.assert_close(found, gradient(correlation, output, target), rtol=0.05, atol=2e-3)


@pytest.mark.parametrize("estimator", DIRECTIONS)
def test_class_weights_and_ignored_labels_count_for_directions_too(estimator):
    output, target = rows(), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.tensor([0.0, 1.0, 3.0])
    plain = gradient(SwarmLoss(nn.CrossEntropyLoss(), estimator=estimator), output, target)
    weighted = nn.CrossEntropyLoss(weight=weight, ignore_index=1)
    found = gradient(SwarmLoss(weighted, estimator=estimator), output, target)
    assert not found[target != 2].any()
    torch.testing.assert_close(found[target == 2], plain[target == 2] * len(target) / 2)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss()])
def test_on_a_quadratic_and_on_absolute_error_the_sign_of_every_entry_is_right(loss):
    output, target = rows(shape=(500, 10)), rows(1, (500, 10))
    far = (output - target).abs() > 0.05
    for criterion in (fine(loss), SwarmLoss(loss, scope="entry")):
        found = gradient(criterion, output, target)
        right = (found.sign() == (output - target).sign())[far]
        assert right.float().mean() > 0.99


# --- what must never happen -----------------------------------------------------------------


@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("scope", ["row", "entry", "batch"])
@pytest.mark.parametrize("estimator", [*SLOPES, *DIRECTIONS])
def test_a_constant_loss_has_no_gradient(estimator, scope, iterations, bounds):
    def constant(output, target):
        return torch.ones(()) if scope == "batch" else torch.ones_like(output)

    criterion = SwarmLoss(
        constant, scope=scope, estimator=estimator, iterations=iterations, bounds=bounds
    )
    assert not gradient(criterion, rows().sigmoid(), rows()).any()


@pytest.mark.parametrize("estimator", ["near", "starred"])
def test_the_papers_forms_do_not_learn_the_target_from_a_constant_loss(estimator):
    """They wander, since gbest is any point; on average they must not."""
    target = F.one_hot(labels((2000,)), CLASSES).float()
    criterion = SwarmLoss(
        lambda output, target: torch.ones(len(output)), estimator=estimator, iterations=5
    )
    output = torch.full_like(target, 0.5)
    found = -gradient(criterion, output, target)
    towards = (found * (target - output)).sum() / (found.norm() * (target - output).norm())
    assert abs(float(towards)) < 0.05


def test_points_start_around_the_output_and_never_at_the_target():
    seen = []

    def spy(output, target):
        seen.append((output - target).abs().amin(dim=1))
        return (output - target).square().sum(dim=1)

    gradient(SwarmLoss(spy, spread=0.5), torch.zeros(4, 3), torch.full((4, 3), 5.0))
    assert torch.cat(seen).min() >= 4.5


def test_points_are_clipped_to_the_bounds_and_those_of_bce_are_known():
    seen = []

    def spy(output, target):
        seen.append(output)
        return (output - target).square()

    for start, iterations in (("output", 0), ("output", 4), ("range", 2)):
        criterion = SwarmLoss(spy, bounds=(0.0, 1.0), start=start, iterations=iterations)
        gradient(criterion, torch.rand(4, 3), torch.ones(4, 3))
    points = torch.cat(seen)
    assert points.min() >= 0 and points.max() <= 1
    assert SwarmLoss(nn.BCELoss()).bounds == (0.0, 1.0)


# --- the upstream gradient, scopes, members ---------------------------------------------------


@given(factor=st.floats(-1000, 1000, allow_subnormal=False), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_scaling_the_loss_scales_the_gradient(factor, seed):
    output, target = rows(seed), labels()
    one = gradient(SwarmLoss(zero_one), output, target)
    torch.testing.assert_close(gradient(SwarmLoss(zero_one), output, target, factor), factor * one)


def test_permuting_rows_permutes_gradients():
    output, target = rows(), labels()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    loss = nn.CrossEntropyLoss()

    def mean(output, target):
        criterion = SwarmLoss(loss)
        return sum(gradient(criterion, output, target) for _ in range(600)) / 600

    torch.testing.assert_close(
        mean(output[order], target[order]), mean(output, target)[order], rtol=0, atol=2e-3
    )


@pytest.mark.parametrize(
    ("loss", "more"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])), {}),
        (zero_one, {"estimator": "tie"}),
        (zero_one, {"iterations": 3, "dynamics": REMPSO()}),
        (OneHot(F.l1_loss), {"scope": "entry"}),
        (f1, {"scope": "batch"}),
    ],
)
def test_stacked_members_get_what_each_would_get_alone(loss, more):
    outputs, targets = rows(shape=(4, ROWS, CLASSES)), labels((4, ROWS))
    stacked, alone = (SwarmLoss(loss, seed=3, **more) for _ in range(2))
    together = outputs.clone().requires_grad_()
    values = stacked.of_members(together, targets)
    values.sum().backward()
    for i in range(4):
        one = outputs[i].clone().requires_grad_()
        value = alone(one, targets[i])
        value.backward()
        torch.testing.assert_close(values[i].detach(), value.detach())
        torch.testing.assert_close(together.grad[i], one.grad)


@pytest.mark.parametrize("per_member", [False, True])
@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_it_trains_a_population_on_every_engine(engine, per_member):
    population = ge.Population(mlp(4, 8, CLASSES), 3, engine=engine)
    x = rows(shape=(3, 40, 4) if per_member else (40, 4))
    y = x[..., :CLASSES].argmax(-1)
    optimizer = torch.optim.Adam(population.parameters(), lr=0.02)
    criterion = SwarmLoss(zero_one)
    before = population.losses(criterion, x, y, per_member=per_member).detach()
    for _ in range(60):
        optimizer.zero_grad()
        population.losses(criterion, x, y, per_member=per_member).sum().backward()
        optimizer.step()
    after = population.losses(criterion, x, y, per_member=per_member)
    assert population.engine == engine
    assert (after < 0.6 * before).all()


def test_a_loss_written_with_numpy_serves_a_batch():
    def area(output, target):
        return float((output.numpy()[:, 0] > 0).mean())

    criterion = SwarmLoss(area, scope="batch", particles=200, spread=0.5)
    found = gradient(criterion, rows(), labels())
    near = rows()[:, 0].abs() < 0.4  # only there a point can change sides
    assert found[near, 0].mean() > 3 * found[:, 1:].abs().mean()


def test_targets_may_be_a_tree_of_tensors():
    def loss(output, target):
        return (output - target["place"]).square().sum(dim=1) * target["weight"]

    target = {"place": rows(1), "weight": torch.tensor([1.0, 0, 1, 1, 1, 1])}
    found = gradient(SwarmLoss(loss, estimator="regression"), rows(), target)
    assert not found[1].any() and found[0].any()


def test_the_value_of_an_unreduced_loss_is_its_mean_over_rows_and_entries():
    output, target = rows(), rows(1)
    assert SwarmLoss(lambda o, t: (o - t) ** 2)(output, target) == F.mse_loss(output, target)
    summed = SwarmLoss(lambda o, t: (o - t).square().sum(dim=1))(output, target)
    torch.testing.assert_close(summed, (output - target).square().sum() / ROWS)


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (-3.0, 7.0)])
@pytest.mark.parametrize("start", ["output", "range"])
def test_spread_counts_in_the_width_of_the_bounds_and_range_is_all_of_it(start, low_high):
    low, high = low_high
    seen = []

    def spy(output, target):
        seen.append(output)
        return output.square()

    middle = torch.full((50, 2), (low + high) / 2)
    criterion = SwarmLoss(spy, bounds=low_high, start=start, spread=0.1, particles=40)
    gradient(criterion, middle, middle)
    reach = (seen[-1] - middle[0, 0]).abs().max() / (high - low)
    assert 0.95 * (0.1 if start == "output" else 0.5) < reach <= (0.1 if start == "output" else 0.5)


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
    for _ in range(2):  # before and after the first draw
        save_file(model.state_dict(), tmp_path / "model")
        model.load_state_dict(load_file(tmp_path / "model"))
        gradient(model["loss"], rows(), labels())


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
            mlp(4, 5, CLASSES), criterion, data, seed=4,
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
        "scope": "entry", "particles": 7, "iterations": 2, "dynamics": REMPSO(), "estimator": "tie",
        "start": "range", "spread": 0.3, "bounds": (0.0, 2.0), "eta": 0.2,
    }  # fmt: skip
    criterion = ge.AdaSwarm(**settings).criterion(nn.MSELoss())
    assert {name: getattr(criterion, name) for name in settings} == settings
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
    loss = lambda output, y: zero_one(output, y).mean()  # noqa: E731
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
