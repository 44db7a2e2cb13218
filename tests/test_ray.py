"""`gradevo.ray.fit` on a real Ray: `make test-ray` installs it and runs this."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch.nn.functional as F

import gradevo as ge
import gradevo.ray
import runs
import team

LIMIT = 400.0  # seconds for all jobs
onray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What all jobs have found; nothing of Ray is left afterwards."""
    folder = tmp_path_factory.mktemp("ray")
    room = tempfile.mkdtemp(prefix="ray")  # a short name: sockets lie there
    command = [sys.executable, str(Path(__file__).with_name("onray.py")), str(folder), room]
    others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        team.finish(command, LIMIT, env=others)
    finally:
        subprocess.run(["pkill", "-9", "-f", room], check=False)  # of this Ray, and no other
        shutil.rmtree(room, ignore_errors=True)
    return json.loads((folder / "out").read_text())


@onray
@pytest.mark.parametrize("algorithm", ["gadam", "gemonn"])
def test_two_workers_on_ray_give_the_bits_of_one_process(algorithm, found):
    assert found[algorithm]


@onray
def test_a_finished_run_that_is_called_again_gives_the_same_result(found):
    assert found["again"]


@onray
def test_a_run_whose_worker_is_killed_ends_as_if_nothing_had_happened(found):
    assert found["deaths"] == 1
    assert found["killed"]


@onray
def test_after_too_many_deaths_the_run_says_where_it_is_and_can_go_on(found):
    assert "workers: must end well" in found["lost"]
    assert "where 1 restarts are allowed" in found["lost"]
    assert found["after"]


def fit(algorithm, **more):
    given = {"workers": 2, "checkpoint": "nowhere", **more}
    return gradevo.ray.fit(algorithm, runs.net, F.cross_entropy, runs.rows(), **given)


def test_wrong_arguments_are_refused_before_ray_is_started(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match="workers: must be a whole number of at least 1, got 0"):
        fit(ge.GADAM(), workers=0)
    with pytest.raises(ValueError, match="population: must be at least the number"):
        fit(ge.GADAM(population=3), workers=5)
    with pytest.raises(ValueError, match="algorithm: must be GADAM"):
        fit(ge.Independent())
    with pytest.raises(ValueError, match="engine: must be one of"):
        fit(ge.GADAM(), engine="none")
    with pytest.raises(ImportError, match=r"Ray is not installed: pip install 'gradevo\[ray\]'"):
        fit(ge.GADAM())
