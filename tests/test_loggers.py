"""Loggers, each with its real package offline: what is there afterwards, whatever went wrong."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradevo as ge
import runs
from gradevo.cli import main
from gradevo.folder import FILE
from gradevo.loggers import MLflow, Row, Run, TensorBoard, WandB
from gradevo.loggers.numbers import row_of
from logged import (
    events,
    logged,
    mlflow_run,
    mlflow_steps,
    tensorboard_series,
    wandb_folders,
    wandb_records,
    wandb_rows,
)

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_SILENT": "true", "WANDB_MODE": "offline"}
os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "WANDB_ERROR_REPORTING": "false"}

pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # in MLflow
]
KEYS = {"best", "mean", "adoption", "diversity", "member_steps", "seconds"} | {
    f"{spread}/{part}"
    for spread in ("losses", "hyper/lr", "hyper/weight_decay")
    for part in ("min", "median", "max")
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store of MLflow; its tables take seconds to make."""
    yield f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


# --- each of them ------------------------------------------------------------------------------


def test_tensorboard_has_every_number_the_members_and_the_settings(tmp_path: Path) -> None:
    result = runs.fit("tensors", tmp_path, log="tensorboard", generations=3)
    found, series = events(tmp_path / "tensorboard"), tensorboard_series(tmp_path / "tensorboard")
    own = logged(tmp_path)
    assert set(own) >= KEYS
    for name in own.keys() - {"seconds"}:
        assert series[name] == [(step, pytest.approx(value)) for step, value in own[name]]
    assert [event.step for event in found.Histograms("losses")] == [1, 2, 3]
    assert found.Histograms("hyper/lr")[-1].histogram_value.num == 3
    assert series["result/loss"] == [(3, pytest.approx(float(result.losses[0])))]
    told = str(found.SummaryMetadata("_hparams_/session_start_info"))
    assert all(word in told for word in ("gadam", "batch_size", "rate_decay", "seed"))


def test_wandb_has_every_number_the_members_and_the_settings(tmp_path: Path) -> None:
    result = runs.fit("tensors", tmp_path, log=WandB(project="digits"), generations=3)
    (folder,) = wandb_folders(tmp_path)
    rows, own = wandb_rows(folder), logged(tmp_path)
    assert [row["_step"] for row in rows] == [1, 2, 3]
    for name in own.keys() - {"seconds"}:
        assert [(row["_step"], row[name]) for row in rows] == own[name]
    assert {row["losses/_type"] for row in rows} == {"histogram"}
    records = wandb_records(folder)
    (begun,) = [record.run for record in records if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["algorithm"], config["seed"], config["population"]) == ("gadam", 0, 3)
    assert (begun.project, begun.display_name) == ("digits", tmp_path.name)
    updates = [item for r in records if r.HasField("summary") for item in r.summary.update]
    summary = {item.key or "/".join(item.nested_key): item.value_json for item in updates}
    assert json.loads(summary["result/loss"]) == pytest.approx(float(result.losses[0]))
    assert [r.exit.exit_code for r in records if r.HasField("exit")] == [0]


def test_mlflow_has_every_number_and_the_settings(tmp_path: Path, store: str) -> None:
    result = runs.fit("tensors", tmp_path, log=MLflow("digits", uri=store), generations=3)
    (run, client), own = mlflow_run(store, tmp_path), logged(tmp_path)
    for name in own.keys() - {"seconds"}:
        series = client.get_metric_history(run.info.run_id, name)
        assert [(metric.step, metric.value) for metric in series] == own[name]
    assert run.data.metrics["result/loss"] == float(result.losses[0])
    assert run.data.params["algorithm"] == "gadam"
    assert run.data.params["torch"] == runs.torch.__version__
    assert (run.info.status, run.info.run_name) == ("FINISHED", tmp_path.name)
    assert client.get_experiment(run.info.experiment_id).name == "digits"


# --- going on ----------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_place_with_each_step_once(
    tmp_path: Path, store: str
) -> None:
    log = ["tensorboard", "wandb", MLflow(uri=store)]
    runs.fit("tensors", tmp_path, log=log)
    ids = (tmp_path / "loggers.json").read_text()
    shutil.copy(tmp_path / FILE, tmp_path / "before")
    runs.fit("tensors", tmp_path, log=log, generations=4)
    os.replace(tmp_path / "before", tmp_path / FILE)  # as if two generations had not been saved
    result = runs.fit("tensors", tmp_path, log=log, generations=5)
    assert (tmp_path / "loggers.json").read_text() == ids
    series = tensorboard_series(tmp_path / "tensorboard")
    best = [(info["generation"], pytest.approx(info["best"])) for info in result.history]
    assert series["best"] == best
    assert mlflow_steps(store, tmp_path) == [1, 2, 3, 4, 5]
    assert mlflow_run(store, tmp_path)[0].info.status == "FINISHED"
    steps = [[row["_step"] for row in wandb_rows(one)] for one in wandb_folders(tmp_path)]
    assert steps == [[1, 2], [3, 4], [3, 4, 5]]  # which `wandb sync` puts together, by the id
    names = [path.name for path in wandb_folders(tmp_path)]  # numbered within a second
    assert {name.split("-")[3] for name in names} == {json.loads(ids)["wandb"]}


def test_a_logger_that_joins_late_gets_what_was_before(tmp_path: Path, store: str) -> None:
    runs.fit("tensors", tmp_path)
    log = ["tensorboard", "wandb", MLflow(uri=store)]
    runs.fit("tensors", tmp_path, log=log, generations=4)
    assert [step for step, _ in tensorboard_series(tmp_path / "tensorboard")["best"]] == [
        1,
        2,
        3,
        4,
    ]
    assert mlflow_steps(store, tmp_path) == [1, 2, 3, 4]
    (folder,) = wandb_folders(tmp_path)
    assert [row["_step"] for row in wandb_rows(folder)] == [1, 2, 3, 4]


def test_a_new_run_in_the_folder_of_one_that_saved_nothing_is_new_to_the_loggers(
    tmp_path: Path, store: str
) -> None:
    log = ["tensorboard", MLflow(uri=store)]
    runs.fit("tensors", tmp_path, log=log, generations=3)
    former = json.loads((tmp_path / "loggers.json").read_text())
    (tmp_path / FILE).unlink()
    runs.fit("tensors", tmp_path, log=log, seed=1)
    assert json.loads((tmp_path / "loggers.json").read_text()) != former
    assert [step for step, _ in tensorboard_series(tmp_path / "tensorboard")["best"]] == [1, 2]
    assert mlflow_steps(store, tmp_path) == [1, 2]


# --- when something fails ----------------------------------------------------------------------


def test_a_server_that_is_away_is_warned_of_once_and_changes_no_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = MLflow(uri="http://127.0.0.1:9")
    result = runs.fit("tensors", tmp_path, log=nobody, generations=3)
    assert runs.bits(result) == runs.bits(runs.fit("tensors", generations=3))
    said = [r.message for r in caplog.records if r.name == "gradevo.loggers"]
    assert len(said) == 2
    assert said[0].startswith("mlflow: the run goes on without it")
    assert said[1] == "mlflow: 3 generations were not logged"
    assert len(logged(tmp_path)["best"]) == 3


FULL = """
import resource, sys
from pathlib import Path
import runs
from gradevo.loggers import TensorBoard

folder = Path(sys.argv[1])
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

def disk(info):
    full = 2 <= info["generation"] < 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 if full else most, most))

runs.fit("tensors", generations=6, log=TensorBoard(folder), callbacks=[disk])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files")
def test_what_a_full_disk_refused_is_there_once_it_has_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the run goes on without it") == 1
    assert "were not logged" not in done.stderr
    assert [step for step, _ in tensorboard_series(tmp_path)["best"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("error", "status", "code"), [(KeyboardInterrupt, "KILLED", 130), (OSError, "FAILED", 1)]
)
def test_loggers_are_closed_however_a_run_ends(error, status, code, tmp_path, store) -> None:
    def end(info: dict[str, Any]) -> None:
        if info["generation"] == 3:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        log = ["tensorboard", "wandb", MLflow(uri=store)]
        runs.fit("tensors", tmp_path, log=log, generations=4, callbacks=[end])
    assert mlflow_steps(store, tmp_path) == [1, 2]
    assert mlflow_run(store, tmp_path)[0].info.status == status
    (folder,) = wandb_folders(tmp_path)
    assert [r.exit.exit_code for r in wandb_records(folder) if r.HasField("exit")] == [code]
    assert [step for step, _ in tensorboard_series(tmp_path / "tensorboard")["best"]] == [1, 2]


class Flaky:
    """A logger of a user's own that fails at the calls of which the numbers are given."""

    kind = "flaky"

    def __init__(self, *bad: int) -> None:
        self.bad, self.calls, self.steps = bad, 0, list[int]()
        self.id, self.done, self.closed = "7", 0, list[str]()

    def _call(self) -> None:
        self.calls += 1
        if self.calls in self.bad:
            raise ConnectionError("away")

    def open(self, run: Run) -> "Flaky":
        self._call()
        return self

    def log(self, rows: Sequence[Row]) -> None:
        self._call()
        self.steps += [row.step for row in rows]
        self.done = self.steps[-1]

    def close(self, summary: Mapping[str, float], status: str) -> None:
        self._call()
        self.closed.append(status)


@settings(deadline=None, max_examples=8)
@given(st.sets(st.integers(1, 3)))
def test_a_logger_that_failed_a_few_times_has_every_row_once_in_the_end(bad: set[int]) -> None:
    flaky = Flaky(*bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradevo.loggers.patient.RETRY", 0.0)
        patch.setattr("gradevo.loggers.patient.PAUSE", 0.0)
        runs.fit("tensors", log=flaky, generations=5, steps=1)
    assert flaky.steps == [1, 2, 3, 4, 5]
    assert flaky.closed == ["finished"]


@pytest.mark.parametrize("damage", ["{x", "[]"])
def test_a_damaged_list_of_ids_costs_no_run_and_no_row(damage: str, tmp_path: Path, caplog) -> None:
    runs.fit("tensors", tmp_path, log=Flaky(), generations=1, steps=1)
    (tmp_path / "loggers.json").write_text(damage)
    flaky = Flaky()
    runs.fit("tensors", tmp_path, log=flaky, generations=3, steps=1)
    assert flaky.steps == [1, 2, 3]
    assert "loggers.json is damaged; loggers start anew" in caplog.text


def test_a_logger_that_cannot_be_closed_is_said_to_be_such(caplog) -> None:
    class Unclosing(Flaky):
        def close(self, summary: Mapping[str, float], status: str) -> None:
            raise KeyError("result/loss")

    runs.fit("tensors", log=Unclosing(), generations=1, steps=1)
    assert "flaky: could not be closed: KeyError 'result/loss'" in caplog.text


# --- beside other things -----------------------------------------------------------------------


def test_loggers_change_no_bit_and_live_with_loaders_that_fork(tmp_path: Path) -> None:
    log = ["tensorboard", "wandb"]
    with_them = runs.fit("workers", tmp_path, log=log)
    assert runs.bits(with_them) == runs.bits(runs.fit("workers"))
    assert [step for step, _ in tensorboard_series(tmp_path / "tensorboard")["best"]] == [1, 2]


def test_a_run_of_the_users_own_at_wandb_is_left_alone(tmp_path: Path) -> None:
    import wandb

    mine = wandb.init(project="mine", mode="offline", dir=tmp_path)
    runs.fit("tensors", tmp_path / "run", log="wandb")
    assert wandb.run is mine
    mine.log({"still": "open"})
    mine.finish()
    (folder,) = wandb_folders(tmp_path)
    assert [row["still"] for row in wandb_rows(folder)] == ["open"]


def test_a_front_is_logged_by_its_own_numbers(tmp_path: Path) -> None:
    algorithm = ge.GEMONN(population=4, generations=6, steps=5, batch_size=16)
    loss = runs.nn.functional.cross_entropy
    log = TensorBoard(tmp_path)
    front = ge.fit(algorithm, runs.net, loss, runs.rows(), engine="loop", log=log)
    series = tensorboard_series(tmp_path)
    assert {"front", "densities/min", "densities/median", "losses/max"} <= set(series)
    assert [step for step, _ in series["front"]] == [1, 2, 3, 4, 5, 6]
    assert series["result/networks"] == [(6, len(front))]


def test_the_command_takes_several_names(tmp_path: Path, capsys) -> None:
    words = ["train", "iris", "--steps", "5", "--population", "2", "--generations", "1", "--quiet"]
    main([*words, "--engine", "loop", "--out", str(tmp_path), "--log", "tensorboard,wandb"])
    assert len(wandb_folders(tmp_path)) == 1
    assert "best" in tensorboard_series(tmp_path / "tensorboard")
    assert capsys.readouterr().err == ""


# --- numbers and mistakes ----------------------------------------------------------------------

NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), st.text(max_size=2))
TREES = st.recursive(
    NUMBERS | st.lists(NUMBERS, max_size=4),
    lambda inner: st.dictionaries(st.sampled_from(["lr", "decay"]), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["best", "new", "hyper"]), TREES))
def test_every_finite_number_of_an_info_is_logged_and_nothing_else(info: dict[str, Any]) -> None:
    row = row_of({"generation": 3, **info})
    assert row.step == row.scalars["generation"] == 3
    assert all(type(value) in (int, float) for value in row.scalars.values())
    assert all(abs(value) < float("inf") for value in row.scalars.values())
    for name, value in info.items():
        if type(value) in (int, float) and abs(value) < float("inf"):
            assert row.scalars[name] == value
    for name, values in row.spreads.items():
        parts = [row.scalars[f"{name}/{part}"] for part in ("min", "median", "max")]
        assert parts == sorted(parts)
        assert (parts[0], parts[2]) == (min(values), max(values))


@pytest.mark.parametrize(
    ("package", "name"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_missing_package_is_one_line_before_any_work(package, name, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    built = []
    with pytest.raises(ImportError) as error:
        runs.fit("tensors", log=name, build=lambda: built.append(1))
    assert str(error.value) == f"log: needs {package}, got none; pip install 'gradevo[{name}]'"
    assert built == []
    with pytest.raises(SystemExit, match="2"):
        main(["train", "iris", "--log", name])
    assert f"gradevo[{name}]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("tensorbord", "log: must be one of tensorboard, wandb, mlflow, got 'tensorbord'"),
        (["wandb", 3], "log: must be a name or a logger, TensorBoard() for example, got 3"),
        (TensorBoard, "log: must be a name or a logger"),
    ],
)
def test_what_is_no_logger_is_refused_by_name(log: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        runs.fit("tensors", log=log)
    assert str(error.value).startswith(said)


def test_nobody_signed_in_at_wandb_is_a_mistake(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ValueError, match=r"log: must be able to begin a run at W&B") as error:
        runs.fit("tensors", log=WandB(mode="online", folder=tmp_path))
    assert "offline" in str(error.value)
