"""The record in a run folder: what the run was, for those who come later."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import gradevo as ge
from gradevo import record
from gradevo.cli import main
from gradevo.models import mlp
from gradevo.networks import Network

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
SHORT = {"population": 2, "steps": 3, "batch_size": 16}


def trained(folder: Path, generations: int) -> None:
    algorithm = ge.GADAM(generations=generations, **SHORT)
    ge.fit(algorithm, mlp(4, 3, 1), nn.MSELoss(), (X, X[:, :1]), engine="loop", checkpoint=folder)


def test_fit_notes_settings_versions_engine_and_end(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    found = record.read(tmp_path)
    assert found["run"]["algorithm"] == "gadam" and found["run"]["generations"] == 2
    assert found["run"]["loss"].endswith("MSELoss") and found["run"]["seed"] == 0
    assert found["versions"]["torch"] == torch.__version__
    assert found["engine"]["name"] == "loop"
    ended = {"member_steps": 18, "engine": "loop", "skipped": 0, "learnt": True}
    assert found["finished"] == ended


def test_a_run_that_was_stopped_has_no_end_and_one_that_goes_on_gets_it(tmp_path: Path) -> None:
    def stop(info: dict[str, object]) -> None:
        raise RuntimeError("stopped")

    algorithm = ge.GADAM(generations=3, **SHORT)
    given = algorithm, mlp(4, 3, 1), nn.MSELoss(), (X, X[:, :1])
    with pytest.raises(RuntimeError, match="stopped"):
        ge.fit(*given, engine="loop", checkpoint=tmp_path, callbacks=[stop])
    assert record.read(tmp_path)["finished"] is None
    ge.fit(*given, engine="loop", checkpoint=tmp_path)
    assert record.read(tmp_path)["finished"]["member_steps"] == 24


def test_the_command_notes_data_network_and_figures(tmp_path: Path) -> None:
    short = ["--steps", "5", "--population", "2", "--generations", "1", "--engine", "loop"]
    main(["train", "iris", *short, "--hidden", "7,5", "--loss", "mae", "--out", str(tmp_path)])
    found = record.read(tmp_path)
    assert found["data"]["classes"] == ["setosa", "versicolor", "virginica"]
    assert sum(found["data"]["rows"].values()) == 150
    network = Network.of(found["network"])()
    assert [part.out_features for part in network if isinstance(part, nn.Linear)] == [7, 5, 3]
    assert isinstance(network[-1], nn.Sigmoid)
    assert found["method"]["name"] == "gadam" and 0 <= found["outcome"]["accuracy"] <= 1


def test_a_damaged_record_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"run": ')
    with pytest.raises(ge.CheckpointError, match=r"got a damaged file .*run\.json"):
        record.read(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps([1]))
    with pytest.raises(ge.CheckpointError, match="must be a JSON object"):
        record.read(tmp_path)


def test_a_damaged_record_does_not_stop_a_run_that_goes_on(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    (tmp_path / "run.json").write_text("")
    trained(tmp_path, 2)
    assert record.read(tmp_path)["finished"]["member_steps"] == 18
    assert (tmp_path / "run.json.damaged").exists()


def test_seconds_of_a_resumed_run_are_of_all_attempts(tmp_path: Path) -> None:
    short = ["--steps", "5", "--population", "2", "--generations", "1", "--engine", "loop"]
    command = ["train", "iris", *short, "--out", str(tmp_path / "run")]
    main(command)
    first = record.read(tmp_path / "run")["outcome"]["seconds"]
    main([*command, "--resume"])
    assert record.read(tmp_path / "run")["outcome"]["seconds"] > first


def test_a_loss_with_other_weights_is_another_run(tmp_path: Path) -> None:
    labels = (X[:, 0] > 0).long()

    def run(*weights: float) -> None:
        loss = nn.CrossEntropyLoss(weight=torch.tensor(weights))
        algorithm = ge.GADAM(generations=1, **SHORT)
        ge.fit(algorithm, mlp(4, 3, 2), loss, (X, labels), engine="loop", checkpoint=tmp_path)

    run(1.0, 1.0)
    with pytest.raises(ge.CheckpointError, match="same run, but the loss: weight, content"):
        run(100.0, 1.0)


def test_the_engine_of_a_front_is_that_of_the_one_that_learns(tmp_path: Path) -> None:
    algorithm = ge.GEMONN(population=4, generations=3, steps=3, batch_size=16)
    ge.fit(algorithm, mlp(4, 3, 1), nn.MSELoss(), (X, X[:, :1]), checkpoint=tmp_path)
    assert record.read(tmp_path)["engine"]["name"] == "loop"


def test_a_run_that_goes_on_keeps_the_time_of_its_start(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    started = record.read(tmp_path)["started"]
    trained(tmp_path, 2)
    assert record.read(tmp_path)["started"] == started
