"""Networks in files that other programs run: what is written computes what the module does."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import gradevo as ge
import runs
from gradevo.export import ExportError, batches, write
from gradevo.models import LeNet5, mlp
from modules import ZOO, Case, Tied

TRACED = {name: case for name, case in ZOO.items() if name != "branching"}
ONNX = {
    **{name: ZOO[name] for name in ("convolution", "lstm", "transformer")},
    "lenet": Case(LeNet5, (1, 28, 28)),
}


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def close(mine: Any, theirs: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(mine), theirs, rtol=1e-5, atol=1e-5)


class Two(nn.Module):
    """Two inputs by name, two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, narrow: Tensor, wide: Tensor) -> dict[str, Tensor]:
        sum_ = self.wide(wide) + self.narrow(narrow)
        return {"logits": sum_, "odds": sum_.exp()}


class Counting(nn.Module):
    """Computes something else for few rows, which a trace does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.shape[0] > 3 else 2 * self.layer(x)


class Spectrum(nn.Module):
    """An operation that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(self.layer(x).unsqueeze(1) * x.unsqueeze(2)).abs()


class Noisy(nn.Module):
    """Draws in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.dropout(self.layer(x), 0.5, True)


@pytest.fixture(scope="module")
def result() -> ge.Result:
    return runs.fit("tensors", population=3, steps=4)


# --- what is written computes the same -----------------------------------------------------


@pytest.mark.parametrize("name", ONNX)
def test_an_onnx_file_computes_what_the_module_does_for_any_number_of_rows(name, tmp_path):
    case, path = ONNX[name], tmp_path / "network.onnx"
    module = case.build().eval()
    written = write(module, path, example=case.batch(3)[0])
    assert written.error is not None and written.error < 1e-5
    assert (written.to, written.bytes) == ("onnx", path.stat().st_size)
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]
    run = session(path)
    assert [i.name for i in run.get_inputs()] == ["input"]
    assert [o.name for o in run.get_outputs()] == ["output"]
    assert run.get_inputs()[0].shape == ["batch", *case.row]
    for rows in (1, 2, 9):
        x = case.batch(rows, seed=rows)[0]
        close(run.run(None, {"input": x.numpy()})[0], module(x).detach())


@pytest.mark.parametrize("name", TRACED)
def test_a_torch_export_file_computes_what_the_module_does_for_any_number_of_rows(name, tmp_path):
    case, path = TRACED[name], tmp_path / "network.pt2"
    module = case.build().eval()
    write(module, path, example=case.batch(3)[0])
    back = torch.export.load(path).module()
    for rows in (1, 2, 9):
        x = case.batch(rows, seed=rows)[0]
        close(back(x), module(x))


def test_an_example_of_one_row_fixes_nothing(tmp_path):
    module = mlp(4, 5, 3)()
    write(module, tmp_path / "a.pt2", example=torch.randn(1, 4))
    x = torch.randn(6, 4)
    close(torch.export.load(tmp_path / "a.pt2").module()(x), module(x))


def test_an_ensemble_of_a_run_is_one_onnx_file(result, tmp_path):
    path = tmp_path / "ensemble.onnx"
    write(result.ensemble, path, example=runs.rows(5)[0], about={"members": 3})
    x = runs.rows(40)[0]
    found = session(path).run(None, {"input": x.numpy()})[0]
    close(found, result.ensemble(x).detach())
    close(np.exp(found).sum(axis=1), torch.ones(40))


def test_an_ensemble_that_averages_outputs_is_one_program_too(tmp_path):
    members = ge.Population(mlp(4, 6, 2), 3, engine="loop")
    result = ge.Result(members, torch.zeros(3), [], 0, "loop", False, {})
    write(result.ensemble, tmp_path / "a.pt2", example=torch.randn(3, 4))
    x = torch.randn(7, 4)
    close(torch.export.load(tmp_path / "a.pt2").module()(x), members(x).mean(dim=0))


def test_inputs_and_outputs_by_name_keep_their_names_in_whatever_order_they_are_given(tmp_path):
    module, path = Two(), tmp_path / "a.onnx"
    example = {"wide": torch.randn(3, 4), "narrow": torch.randn(3, 2)}
    write(module, path, example=example)
    run = session(path)
    assert {given.name for given in run.get_inputs()} == {"wide", "narrow"}
    found = run.run(["odds", "logits"], {name: x.numpy() for name, x in example.items()})
    expected = module(**example)
    close(found[0], expected["odds"].detach())
    close(found[1], expected["logits"].detach())


def test_inputs_in_a_tuple_are_given_by_position(tmp_path):
    module, example = Two(), (torch.randn(3, 2), torch.randn(3, 4))
    write(module, tmp_path / "a.pt2", example=example)
    back = torch.export.load(tmp_path / "a.pt2").module()
    close(back(*example)["logits"], module(*example)["logits"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_what_they_are(dtype, tmp_path):
    module, x = mlp(4, 5, 3)().to(dtype), torch.randn(3, 4, dtype=dtype)
    write(module, tmp_path / "a.pt2", example=x)
    assert torch.export.load(tmp_path / "a.pt2").module()(x).dtype == dtype
    write(module, tmp_path / "a.safetensors")
    assert {t.dtype for t in load_file(tmp_path / "a.safetensors").values()} == {dtype}


# --- weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth"])
@pytest.mark.parametrize("name", ["convolution", "tied", "branching"])
def test_a_state_dict_loads_strictly_into_a_new_module(name, ending, tmp_path):
    module, path = ZOO[name].build().eval(), tmp_path / f"a.{ending}"
    assert write(module, path).error is None
    safe = ending == "safetensors"
    state = load_file(path) if safe else torch.load(path, weights_only=True)
    other = ZOO[name].build().eval()
    other.load_state_dict(state)
    x = ZOO[name].batch()[0]
    assert torch.equal(other(x), module(x))


def test_a_state_dict_of_an_ensemble_is_that_of_a_list_of_its_members(result, tmp_path):
    write(result.ensemble, tmp_path / "a.safetensors")
    members = nn.ModuleList(runs.net() for _ in range(3)).eval()
    members.load_state_dict(load_file(tmp_path / "a.safetensors"))
    x = runs.rows(9)[0]
    for i, member in enumerate(members):
        assert torch.equal(member(x), result.members.member(i).eval()(x))


def test_a_member_that_is_a_view_takes_no_more_room_than_its_own(tmp_path):
    population = ge.Population(mlp(64, 64, 8), 50, engine="loop")
    one = write(mlp(64, 64, 8)(), tmp_path / "one.pt").bytes
    assert write(population.view(0), tmp_path / "view.pt").bytes < one + 1000


def test_what_is_no_tensor_in_a_state_dict_is_refused_by_its_name(tmp_path):
    class Noted(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"epoch": 3}

    with pytest.raises(ExportError, match="state dict of tensors, got dict as _extra_state"):
        write(Noted(2, 2), tmp_path / "a.safetensors")


# --- what a file says, and does not say ----------------------------------------------------


def test_a_file_notes_version_and_facts_and_nothing_of_the_example_or_this_machine(tmp_path):
    module, example = mlp(4, 5, 3)(), torch.randn(3, 4)
    about = {"classes": ["a", "b"], "loss": float("nan"), "what": "best", "left": None}
    facts = {
        "gradevo.version": ge.__version__,
        "gradevo.classes": '["a", "b"]',
        "gradevo.loss": "null",
        "gradevo.what": "best",
    }
    for ending in ("onnx", "pt2", "safetensors"):
        write(module, tmp_path / f"a.{ending}", example=example, about=about)
        content = (tmp_path / f"a.{ending}").read_bytes()
        assert example[0].numpy().tobytes() not in content
        assert str(Path(torch.__file__).parent).encode() not in content
        assert str(Path(__file__).parent).encode() not in content
    model = onnx.load(tmp_path / "a.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props} == facts
    graph = model.graph  # in which torch's exporter notes classes and code
    assert not any(part.metadata_props for part in (graph, *graph.node, *graph.initializer))
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", **facts}
    extra = {"gradevo.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert '"gradevo.what": "best"' in extra["gradevo.json"]


def test_module_random_state_and_logging_are_as_they_were(tmp_path):
    module = ZOO["convolution"].build()
    module.norm.eval()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    state, level = torch.get_rng_state(), logging.root.manager.disable
    write(module, tmp_path / "a.pt2", example=ZOO["convolution"].batch()[0])
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.root.manager.disable == level


# --- what cannot be written ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "to", "reason"),
    [
        (ZOO["branching"].build(), "onnx", "depends on values, at `return one [+] 2 [*] two if"),
        (ZOO["branching"].build(), "torch-export", "depends on values"),
        (Spectrum(), "onnx", "No ONNX function found for .*linalg_eig.*; safetensors and state-"),
        (Counting(), "onnx", "but for 7 rows it differs by"),
        (Counting(), "torch-export", "to be <= 3, but got 7"),
        (Noisy(), "torch-export", "to 1e-05 of its scale, but for 3 rows it differs by"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_what_was_there(
    module, to, reason, tmp_path, capfd
):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ExportError, match=f"^{to}: .*{reason}") as refused:
        write(module, path, to=to, example=torch.randn(3, 4))
    assert len(str(refused.value).splitlines()) == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    assert write(module, path, to="safetensors").bytes == path.stat().st_size


def test_a_number_of_rows_that_the_forward_fixes_is_named(tmp_path):
    class Padded(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if len(input) != 3 else super().forward(input).view(3, -1)

    with pytest.raises(ExportError, match="its forward fixes the number of rows"):
        write(Padded(4, 2), tmp_path / "a.pt2", example=torch.randn(3, 4))


def test_what_cannot_be_copied_is_named(tmp_path):
    module = mlp(4, 3)()
    module.lock = (n for n in "generators")
    with pytest.raises(ExportError, match=r"module: must be one that can be copied, got Seq"):
        write(module, tmp_path / "a.pt2", example=torch.randn(3, 4))


X = torch.ones(3, 4)
MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"path": "a.h5"}, ValueError, r"path: must end in one of .onnx, .pt2, .*, got 'a.h5'"),
    ({"to": "keras"}, ValueError, "to: must be one of onnx, torch-export, .*, got 'keras'"),
    ({"example": None}, ValueError, "example: must be a batch of inputs for torch-export, got no"),
    ({"example": "rows"}, TypeError, "example: must be tensors, got str"),
    ({"example": {}}, TypeError, "example: must be tensors, got none"),
    ({"example": X[:0]}, ValueError, r"one row or more, as many in each, got \[\(0, 4\)\]"),
    ({"example": torch.tensor(1.0)}, ValueError, r"one row or more, .*, got \[\(\)\]"),
    ({"example": (X, X[:2])}, ValueError, r"as many in each, got \[\(3, 4\), \(2, 4\)\]"),
    ({"example": X[:, :2]}, ValueError, r"that Sequential can compute, .* got shape \(3, 2\)"),
    ({"module": mlp(4, 3)}, TypeError, r"module: must be an nn.Module, got function"),
]


@pytest.mark.parametrize(("change", "error", "message"), MISTAKES)
def test_mistakes_are_named_before_anything_is_written(change, error, message, tmp_path):
    given: dict[str, Any] = {"module": mlp(4, 3)(), "path": "a.pt2", "example": X, **change}
    module, path = given.pop("module"), tmp_path / given.pop("path")
    with pytest.raises(error, match=message):
        write(module, path, **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_installs_it(package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}, got none; .*'gradevo\[onnx\]'"):
        write(mlp(4, 3)(), tmp_path / "a.onnx", example=X)


def test_weights_that_are_too_many_for_one_onnx_file_are_refused(tmp_path):
    with torch.device("meta"):
        module = nn.Linear(20_000, 20_000)
    with pytest.raises(ExportError, match=r"at most 1,500,000,000 bytes .*, got 1,600,080,000"):
        write(module, tmp_path / "a.onnx", example=X)


@pytest.mark.parametrize(
    ("expected", "found", "same"),
    [
        ([1.0, 2.0], [1.0, 2.0], True),
        ([1.0, 100.0], [1.0 + 9e-4, 100.0], True),  # of the scale of all
        ([1.0, 100.0], [1.0 + 2e-3, 100.0], False),
        ([1e-9, 0.0], [0.0, 0.0], True),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ([float("nan"), 1.0], [0.5, 1.0], False),
        ([float("inf")], [float("-inf")], False),
        ([1.0], [float("nan")], False),
        ([1.0], [1.0, 1.0], False),
    ],
)
def test_outputs_are_the_same_to_a_share_of_their_scale(expected, found, same):
    batch = batches.Batch(X, torch.tensor(expected))
    if same:
        assert batches.checked_error(batch, [torch.tensor(found)], "onnx") <= 1e-5
    else:
        with pytest.raises(ExportError, match="onnx: must give what the module does"):
            batches.checked_error(batch, [torch.tensor(found)], "onnx")


def test_the_loss_of_a_soup_and_of_its_file_are_equal(result, tmp_path):
    write(result.soup, tmp_path / "a.pt2", example=runs.rows(4)[0])
    x, y = runs.rows(40)
    back = torch.export.load(tmp_path / "a.pt2").module()
    assert cross_entropy(back(x), y).item() == pytest.approx(
        cross_entropy(result.soup(x), y).item(), abs=1e-6
    )


def test_tied_weights_are_one_in_a_program(tmp_path):
    module = Tied()
    write(module, tmp_path / "a.pt2", example=torch.randn(3, 4))
    back = torch.export.load(tmp_path / "a.pt2").module()
    assert mse_loss(back(X), module(X)).item() < 1e-12
