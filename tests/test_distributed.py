"""One population over real processes: the same bits, whatever their number and their fate."""

import json
import shutil

import pytest
import torch

import gradevo as ge
import runs
import team
from gradevo.engines.simd import missing

NUMBA = missing() is None


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Digests of a process that is alone."""
    return team.launch(0, tmp_path_factory.mktemp("alone") / "out", "every")


@pytest.mark.skipif(not NUMBA, reason="some cases need Numba")
@pytest.mark.parametrize("ranks", [2, 4])
def test_any_number_of_processes_gives_the_bits_of_one(ranks, alone, tmp_path):
    assert team.launch(ranks, tmp_path / "out", "every") == alone
    assert len(set(alone.values())) == len(alone)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """What three ranks find where nothing goes wrong, and the folder that they leave."""
    folder = tmp_path_factory.mktemp("calm")
    return team.launch(3, folder / "out", "calm", str(folder)), folder


def test_all_ranks_compute_by_the_engine_that_the_first_has_chosen(calm):
    found = calm[0]["chosen"]
    assert "auto" not in found["names"]
    assert found["engines"][0] == found["engines"][1] == found["engines"][2]


def test_a_result_has_this_ranks_members_and_the_best_until_it_is_gathered(calm):
    found = calm[0]["handed"]
    assert found["members"] == [3, 2, 2]
    assert "result.gather()" in found["refused"]
    assert found["best"] == found["first"]
    kept = ge.Result.load(calm[1] / "handed", runs.net)
    x = runs.rows(40)[0]
    assert kept.losses.tolist() == found["losses"] == sorted(found["losses"])
    torch.testing.assert_close(kept.ensemble(x), torch.tensor(found["ensemble"]))
    assert torch.equal(kept.best(x), torch.tensor(found["best"]))
    assert found["sent"] > 3 * 4 * 8  # more than losses: weights too


def test_a_front_has_its_numbers_everywhere_and_its_networks_once_it_is_gathered(calm):
    found = calm[0]["picked"]
    assert "result.gather()" in found["refused"]
    kept = ge.Front.load(calm[1] / "picked", runs.net)
    x = runs.rows(40)[0]
    assert kept.rows == found["rows"]
    assert kept.table() == found["table"]
    assert kept.knee(x).tolist() == found["knee"]
    assert kept.best()(x).tolist() == found["best"]


def test_what_cannot_be_shared_is_refused_by_name(calm):
    found = calm[0]["wrong"]
    assert "algorithm: must be GADAM" in found["Independent"]
    assert 'take search="crossover"' in found["GEMONN"]
    assert "population: must be at least the number of processes, 3, got 2" in found["GADAM"]


def test_ranks_that_differ_are_refused_on_all_of_them_at_once(calm):
    for name, ranks in calm[0]["unlike"].items():
        errors, seconds = zip(*ranks, strict=True)
        assert all(name in error for error in errors), (name, errors)
        assert max(seconds) < 30
    same = ("seed", "lr", "training data", "engine")
    assert all("on rank 0" in e for n in same for e, _ in calm[0]["unlike"][n])
    failing = [error for error, _ in calm[0]["unlike"]["build"]]
    assert [error.startswith("rank 2: must start as all do") for error in failing] == [1, 1, 0]


@pytest.fixture(scope="module", params=["a front", "islands"])
def stopped(request, tmp_path_factory):
    """A run that two ranks have left half done: its folder, and how many infos it is to have."""
    folder, case = tmp_path_factory.mktemp("stopped"), request.param
    found = team.launch(2, folder / "out", "saved", str(folder / "run"), "2", "", case)
    assert found["generations"] == (2 if case == "a front" else 1)
    return folder / "run", case, 2 * found["generations"]


@pytest.mark.parametrize("ranks", [0, 4])
def test_fronts_and_islands_that_were_stopped_go_on_with_any_number_of_processes(
    ranks, stopped, alone, tmp_path
):
    folder, case, infos = stopped
    shutil.copytree(folder, tmp_path / "run")
    found = team.launch(ranks, tmp_path / "out", "saved", str(tmp_path / "run"), "", "", case)
    assert found == {"digest": alone[case], "generations": infos}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_whose_worker_is_killed_ends_as_if_nothing_had_happened(rank, alone, tmp_path):
    arguments = str(tmp_path / "run"), "", f"{rank}@3"
    found = team.launch(2, tmp_path / "out", "saved", *arguments, restarts=2)
    assert found == {"digest": alone["loop"], "generations": 4}


def test_a_job_that_was_stopped_goes_on_with_any_number_of_processes(alone, tmp_path):
    first = team.launch(3, tmp_path / "out", "saved", str(tmp_path / "run"), "2")
    assert first["generations"] == 2
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [".lock", "generation-000002", "log.jsonl", "run.json"]
    half = tmp_path / "run" / ".unfinished-generation-000003"  # what a kill would leave
    shutil.copytree(tmp_path / "run" / "generation-000002", half)
    for ranks in (1, 2):
        copy = tmp_path / f"run{ranks}"
        shutil.copytree(tmp_path / "run", copy)
        found = team.launch(ranks, tmp_path / "out", "saved", str(copy))
        assert found == {"digest": alone["loop"], "generations": 4}
        log = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
        assert [info["generation"] for info in log] == [1, 2, 3, 4]
        assert not list(copy.glob(".unfinished*"))


def test_several_processes_go_on_from_the_generation_that_one_has_saved(alone, tmp_path):
    team.launch(0, tmp_path / "out", "saved", str(tmp_path / "run"), "2")
    found = team.launch(2, tmp_path / "out", "saved", str(tmp_path / "run"))
    assert found == {"digest": alone["loop"], "generations": 4}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_full_disk_on_a_rank_stops_all_and_keeps_the_last_good_checkpoint(rank, alone, tmp_path):
    found = team.launch(2, tmp_path / "out", "full", str(tmp_path / "run"), str(rank))
    assert "must be writable" in found["error"]
    assert found["told"] == 2
    found = team.launch(2, tmp_path / "out", "saved", str(tmp_path / "run"))
    assert found == {"digest": alone["loop"], "generations": 4}


def test_a_damaged_shard_is_named_and_not_gone_on_with(tmp_path):
    folder = tmp_path / "run"
    team.launch(2, tmp_path / "out", "saved", str(folder), "2")
    shard = folder / "generation-000002" / "members-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ge.CheckpointError, match=f"must be a whole gradevo file.*for {shard}"):
        team.fit("loop", checkpoint=folder)


def test_a_program_may_have_one_group_after_another(tmp_path):
    assert team.launch(2, tmp_path / "out", "twice") == [3, 3, 3]


def test_a_group_ends_with_its_block_even_where_something_of_it_is_held(tmp_path):
    found = team.launch(2, tmp_path / "out", "held")
    assert "whose group has ended" in found["error"]
    assert found["threads"] == []  # one that wants to speak to a Python that ends aborts it
