"""`gradevo export`: networks of finished runs as files that run elsewhere."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_iris
from torch import nn

import gradevo as ge
from gradevo import record
from gradevo.cli import main
from gradevo.datasets import load
from gradevo.datasets.images import Images
from gradevo.datasets.preparation import Preparation
from gradevo.datasets.tables import Table
from gradevo.export.prepared import Prepared
from gradevo.models import mlp
from gradevo.names import RESULT as FILE
from gradevo.networks import Network

SHORT = ["--steps", "10", "--population", "3", "--generations", "1", "--engine", "loop"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command, of a table of numbers."""
    folder = tmp_path_factory.mktemp("runs") / "iris"
    main(["train", "iris", *SHORT, "--hidden", "8", "--out", str(folder), "--json"])
    return folder


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "front"
    short = ["--steps", "10", "--population", "6", "--generations", "10", "--engine", "loop"]
    words = ["train", "iris", "--method", "gemonn", *short, "--hidden", "16"]
    main([*words, "--out", str(folder), "--json"])
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the library: nothing is noted of data and network."""
    folder = tmp_path_factory.mktemp("runs") / "library"
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    algorithm = ge.GADAM(population=2, generations=1, steps=3, batch_size=16)
    ge.fit(algorithm, mlp(4, 3, 1), nn.MSELoss(), (x, x[:, :1]), engine="loop").save(folder)
    return folder


def export(capsys: pytest.CaptureFixture[str], *words: Any) -> dict[str, Any]:
    capsys.readouterr()
    main(["export", *map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["export", *map(str, words)])
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (2, "")
    assert len(printed.err.splitlines()) == 1
    return printed.err


def computed(path: Path | str, x: Any) -> torch.Tensor:
    run = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.as_tensor(run.run(None, {"input": np.asarray(x, dtype=np.float32)})[0])


def saved(folder: Path) -> ge.Result:
    written = json.loads((folder / "run.json").read_text())["network"]
    return ge.Result.load(folder, Network.of(written))


def close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-5, atol=1e-5)


# --- runs of the command -------------------------------------------------------------------


def test_onnx_takes_the_rows_of_the_file_and_knows_the_classes(run, capsys):
    done = export(capsys, run, "--to", "onnx")
    assert (done["network"], done["rows"]) == ("best", "raw")
    assert done["path"] == str(run / "best.onnx") and done["error"] < 1e-5
    answers = computed(done["path"], load_iris().data)  # of all 150 rows
    expected = saved(run).best(load("iris").test[0])  # of some of them, prepared
    distances = torch.cdist(expected.double(), answers.double()).min(dim=1).values
    assert distances.max() < 1e-5
    session = onnxruntime.InferenceSession(done["path"], providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["gradevo.classes"]) == ["setosa", "versicolor", "virginica"]
    assert float(facts["gradevo.loss"]) == pytest.approx(float(saved(run).losses[0]))
    assert facts["gradevo.rows"] == "raw" and facts["gradevo.data"] == "iris"


def test_an_ensemble_of_prepared_rows_is_one_onnx_file(run, capsys):
    words = ["--to", "onnx", "--what", "ensemble", "--rows", "prepared"]
    done = export(capsys, run, *words)
    x = load("iris").test[0]
    close(computed(done["path"], x), saved(run).ensemble(x))


@pytest.mark.parametrize("what", ["best", "soup", "ensemble"])
def test_torch_export_takes_raw_rows_of_each_network(what, run, capsys, tmp_path):
    path = tmp_path / "a.pt2"
    done = export(capsys, run, "--to", "torch-export", "--what", what, "--out", path)
    x = load("iris").test[0]
    noted = json.loads((run / "run.json").read_text())["data"]["preparation"]
    raw = x * torch.tensor(noted["scale"]) + torch.tensor(noted["mean"])
    found = torch.export.load(done["path"]).module()(raw.float())
    close(found, getattr(saved(run), what)(x))


def test_weights_need_no_code_and_say_how_rows_were_prepared(run, capsys):
    done = export(capsys, run, "--to", "safetensors", "--what", "soup")
    assert done["rows"] == "prepared" and done["error"] is None
    network = Network((4,), 3, (8,))()
    network.load_state_dict(load_file(done["path"]))
    x = load("iris").test[0]
    close(network(x).detach(), saved(run).soup(x))
    with safe_open(done["path"], framework="pt") as file:
        noted = json.loads(file.metadata()["gradevo.preparation"])
    assert len(noted["mean"]) == len(noted["scale"]) == len(noted["fill"]) == 4


def test_what_a_person_reads_says_what_was_written(run, capsys):
    capsys.readouterr()
    main(["export", str(run), "--to", "state-dict", "--what", "ensemble"])
    printed = capsys.readouterr().out
    assert "state-dict: ensemble" in printed and "Takes prepared rows" in printed
    members = nn.ModuleList(Network((4,), 3, (8,))() for _ in range(3))
    members.load_state_dict(torch.load(run / "ensemble.pt", weights_only=True))


def test_the_method_says_which_network_is_handed_over(run, capsys, tmp_path):
    folder = tmp_path / "ensemble"
    words = ["--method", "adam-ensemble", "--hidden", "4", "--out", str(folder), "--json"]
    main(["train", "iris", *SHORT, *words])
    assert export(capsys, folder, "--to", "state-dict")["network"] == "ensemble"


def test_a_table_with_words_is_exported_for_prepared_rows(tmp_path, capsys):
    rows = [f"{i % 7},{['red', 'blue', ''][i % 3]},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["size,colour,label", *rows]))
    words = [str(tmp_path / "data.csv"), *SHORT, "--out", str(tmp_path / "run"), "--json"]
    main(["train", *words])
    done = export(capsys, tmp_path / "run", "--to", "torch-export")
    assert done["rows"] == "prepared"
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["data"]["preparation"]
    assert noted["columns"] == [0]
    assert [(word["column"], word["values"]) for word in noted["words"]] == [(1, ["blue", "red"])]
    message = refused(capsys, tmp_path / "run", "--to", "onnx", "--rows", "raw")
    assert "rows: must be prepared for data of numbers only" in message


# --- fronts --------------------------------------------------------------------------------


def test_a_picked_network_is_compacted_and_computes_the_same(front, capsys):
    words = ["--min-sparsity", "0.8", "--to", "onnx", "--rows", "prepared"]
    done = export(capsys, front, *words)
    kept, before = done["weights"]
    assert done["network"] == "best" and kept < before
    written = json.loads((front / "run.json").read_text())["network"]
    expected = ge.Front.load(front, Network.of(written)).best(min_sparsity=0.8)
    x = load("iris").test[0]
    close(computed(done["path"], x), expected(x))
    session = onnxruntime.InferenceSession(done["path"], providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert float(facts["gradevo.sparsity"]) >= 0.8
    assert int(facts["gradevo.parameters"]) == kept


def test_a_picked_network_keeps_its_shape_where_weights_are_to_be_loaded(front, capsys):
    build, x = Network((4,), 3, (16,)), load("iris").test[0]
    kept = ge.Front.load(front, build)
    for pick, expected in (("best", kept.best()), ("knee", kept.knee)):
        done = export(capsys, front, "--to", "safetensors", "--pick", pick)
        assert done["weights"] is None
        network = build()
        network.load_state_dict(load_file(done["path"]))
        close(network(x).detach(), expected(x))
    done = export(capsys, front, "--to", "safetensors", "--pick", "sparsest")
    smaller = export(capsys, front, "--to", "safetensors", "--pick", "sparsest", "--compact")
    assert smaller["weights"][0] < smaller["weights"][1] and smaller["bytes"] < done["bytes"]
    whole = export(capsys, front, "--to", "torch-export", "--pick", "sparsest", "--no-compact")
    assert whole["weights"] is None


# --- runs of the library -------------------------------------------------------------------


def test_weights_of_a_library_run_need_no_code(library, capsys):
    done = export(capsys, library, "--to", "state-dict")
    assert done["rows"] is None
    network = mlp(4, 3, 1)()
    network.load_state_dict(torch.load(done["path"], weights_only=True))
    best, x = ge.Result.load(library, mlp(4, 3, 1)).best, torch.randn(5, 4)
    close(network(x).detach(), best(x))


def test_a_library_run_is_traced_with_a_builder_of_the_working_folder(
    library, capsys, tmp_path, monkeypatch
):
    (tmp_path / "nets_to_export.py").write_text(
        "from gradevo.models import mlp\nnet, other = mlp(4, 3, 1), mlp(4, 2, 1)\n"
        "def broken(): raise KeyError('x')\ndef three(): return 3\n"
    )
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(3, 4)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = [library, "--to", "torch-export", "--build"]
    done = export(capsys, *words, "nets_to_export:net", "--inputs", "4")
    x = torch.randn(5, 4)
    best = ge.Result.load(library, mlp(4, 3, 1)).best
    close(torch.export.load(done["path"]).module()(x), best(x))
    export(capsys, *words, "nets_to_export:net", "--example", "rows.npy")
    for name, message in {
        "nets_to_export": "build: must be like package.module:function",
        "nets_to_export:broken": "build: must return a new module, got KeyError",
        "nets_to_export:three": "build: must return an nn.Module, got int",
        "nets_to_export:none": "has no attribute 'none'",
        "no_such_module_here:net": "No module named 'no_such_module_here'",
        "nets_to_export:other": "build: must return the architecture saved in",
        "nets_to_export:net": "inputs: must be the shape of a row",
    }.items():
        assert message in refused(capsys, *words, name)
    (tmp_path / "bad.npy").write_text("no rows")
    known = [*words, "nets_to_export:net"]
    assert "example: must be a .npy" in refused(capsys, *known, "--example", "bad.npy")
    assert "inputs: must be sizes like" in refused(capsys, *known, "--inputs", "4,x")
    assert "example: must be rows that Seq" in refused(capsys, *known, "--inputs", "5")


small = mlp(4, 3, 1)


# --- what is refused -----------------------------------------------------------------------


def test_wrong_words_are_one_line(run, front, library, capsys):
    onnx = ["--to", "onnx"]
    for words, message in (
        ([run, "--to", "keras"], "to: must be one of onnx, torch-export"),
        ([run, *onnx, "--what", "worst"], "what: must be one of best, soup, ensemble"),
        ([run, *onnx, "--pick", "knee"], "pick: must go with a front"),
        ([run, *onnx, "--rows", "wet"], "rows: must be one of raw, prepared"),
        ([run, "--to", "state-dict", "--rows", "raw"], "rows: must be prepared for state-dict"),
        ([run, "--to", "safetensors", "--out", run / FILE], "out: must be another file"),
        ([front, *onnx, "--what", "soup"], "what: must be left out for a front"),
        ([front, *onnx, "--min-sparsity", "1"], "min_sparsity: must be at most"),
        ([library, *onnx], "build: must be given for onnx"),
    ):
        assert message in refused(capsys, *words)


def test_folders_without_a_whole_result_are_named(run, capsys, tmp_path):
    assert "must be the folder of a finished run" in refused(capsys, tmp_path, "--to", "onnx")
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "checkpoint.safetensors").write_bytes((run / "checkpoint.safetensors").read_bytes())
    assert "must be finished, got" in refused(capsys, stopped, "--to", "onnx")
    (stopped / FILE).write_bytes((run / FILE).read_bytes()[:1000])
    assert "must be a whole gradevo file" in refused(capsys, stopped, "--to", "onnx")
    (stopped / FILE).write_bytes((run / "checkpoint.safetensors").read_bytes())
    assert "must hold a run's result" in refused(capsys, stopped, "--to", "onnx")
    (stopped / FILE).write_bytes((run / FILE).read_bytes())
    record.note(stopped, network={"inputs": 3})
    assert "must be the record of a run" in refused(capsys, stopped, "--to", "onnx")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; from gradevo.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "safetensors" in done.stdout


# --- preparation ---------------------------------------------------------------------------

# in steps: beside numbers that differ by 1e-38, others would become infinite in float32
NUMBERS = st.one_of(st.just(float("nan")), st.integers(-(10**7), 10**7).map(lambda n: n / 1024))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=3, max_size=9))
def test_a_network_that_prepares_tables_itself_does_what_was_done_for_training(cells):
    table = Table(np.array(cells), (), ("a",) * len(cells))
    encoder = table.fit(np.arange(2))
    again = Preparation.of(json.loads(json.dumps(encoder.preparation.written)))
    found = Prepared(nn.Identity(), again)(torch.tensor(cells, dtype=torch.float32))
    expected = torch.from_numpy(encoder(np.arange(len(cells))))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_network_that_prepares_images_itself_does_what_was_done_for_training():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 4)).astype(np.uint8)
    encoder = Images(pixels, ("a",) * 9).fit(np.arange(6))
    found = Prepared(nn.Identity(), encoder.preparation)(torch.from_numpy(pixels).unsqueeze(1))
    close(found, torch.from_numpy(encoder(np.arange(9))))


def test_what_is_noted_of_words_tells_how_to_encode_them():
    cells = [[1.0, "b"], [3.0, "a"], [float("nan"), "b"], [2.0, float("nan")], [2.0, "c"]]
    encoder = Table(np.array(cells, dtype=object), (1,), ("a",) * 5).fit(np.arange(4))
    noted = encoder.preparation
    assert not noted.numeric
    (words,) = noted.words
    for row, expected in zip(cells, encoder(np.arange(5)), strict=True):
        number = noted.fill[0] if row[0] != row[0] else float(row[0])
        word = words["fill"] if row[1] != row[1] else row[1]
        places = [float(word == value) for value in words["values"]]
        mine = [(number - noted.mean[0]) / noted.scale[0], *places]
        assert mine == pytest.approx(expected.tolist())


def test_numbers_that_float32_does_not_tell_apart_are_prepared_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamps = 1.7e9 + np.arange(120) * 5.0
    lines = [f"{stamp},{int(stamp % 600 < 300)}" for stamp in stamps]
    (tmp_path / "times.csv").write_text("\n".join(["time,label", *lines]))
    run = tmp_path / "run"
    main(["train", str(tmp_path / "times.csv"), *SHORT, "--out", str(run), "--json"])
    capsys.readouterr()
    main(["export", str(run), "--to", "torch-export", "--json"])
    assert json.loads(capsys.readouterr().out)["rows"] == "prepared"
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run), "--to", "torch-export", "--rows", "raw"])
    assert stop.value.code == 2
    assert "too close together for float32" in capsys.readouterr().err


def test_an_example_with_a_missing_number_compacts_as_one_without(
    front: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = load_iris().data[::10].astype(np.float32)
    holes = rows.copy()
    holes[0, 0] = np.nan
    sizes = []
    for name, example in (("rows", rows), ("holes", holes)):
        np.save(tmp_path / f"{name}.npy", example)
        given = ["--example", str(tmp_path / f"{name}.npy"), "--pick", "sparsest", "--json"]
        out = ["--out", str(tmp_path / f"{name}.pt2")]
        main(["export", str(front), "--to", "torch-export", *given, *out])
        sizes.append(json.loads(capsys.readouterr().out)["weights"])
    assert sizes[0] == sizes[1] and sizes[0][0] < sizes[0][1]
