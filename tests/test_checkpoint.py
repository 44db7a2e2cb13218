"""What is on the disk can be trusted, or it is refused with a reason."""

import contextlib
import errno
import json
import os
import pickle
import subprocess
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gradevo as ge
import runs
from gradevo import checkpoint, disk, sealed
from gradevo.batches import Position
from gradevo.callbacks import JsonLines
from gradevo.errors import CheckpointError
from gradevo.folder import FILE, LOG, healthy, placed

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
TREES = st.recursive(
    PLAIN,
    lambda tree: (
        st.lists(tree) | st.tuples(tree) | st.dictionaries(st.text() | st.integers(), tree)
    ),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The checkpoint of a small finished run."""
    folder = tmp_path_factory.mktemp("whole")
    runs.fit("tensors", folder)
    return (folder / FILE).read_bytes()


@pytest.fixture
def file(whole, tmp_path) -> Path:
    """That checkpoint, in a folder of its own."""
    (tmp_path / FILE).write_bytes(whole)
    return tmp_path / FILE


# --- what comes back is what was written -----------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(tree=TREES)
def test_any_tree_of_plain_values_comes_back_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "file"
    checkpoint.write(path, tree)
    assert repr(checkpoint.read(path)) == repr(tree)


def test_tensors_and_generators_come_back_with_their_bits_and_types(tmp_path):
    generator = torch.Generator().manual_seed(3)
    torch.rand(5, generator=generator)
    shared = torch.tensor([float("nan"), float("-inf"), -0.0], dtype=torch.float64)
    tree = {
        "odd": [torch.randn(4, 6).t(), torch.zeros(0, 3), torch.tensor(7), torch.tensor([True])],
        "half": torch.randn(3).bfloat16(),
        "twice": (shared, shared),
        "place": Position(generator.get_state(), 4),
        "generator": generator,
    }
    checkpoint.write(tmp_path / "file", tree)
    back = checkpoint.read(tmp_path / "file")
    for mine, theirs in zip(
        [*tree["odd"], tree["half"]], [*back["odd"], back["half"]], strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert back["twice"][1].numpy().tobytes() == shared.numpy().tobytes()
    assert torch.equal(back["place"].epoch, tree["place"].epoch)
    assert torch.rand((), generator=back["generator"]) == torch.rand((), generator=generator)


def test_tensors_come_back_aligned_as_new_ones_are(file):
    """Sums over unaligned memory may differ in their last bits."""
    state = checkpoint.read(file)["state"]
    assert all(t.data_ptr() % 64 == torch.zeros(9).data_ptr() % 64 for t in state.members.values())


def test_the_engine_that_was_measured_is_gone_on_with(tmp_path, monkeypatch):
    def fit(generations: int) -> ge.Result:
        build = partial(nn.Linear, 6, 3)
        return runs.fit("tensors", tmp_path, build=build, engine="auto", generations=generations)

    monkeypatch.setattr("gradevo.engines.choose.Trial.choose", lambda self: ("vmap", {}))
    assert fit(1).engine == "vmap"
    monkeypatch.setattr("gradevo.engines.choose.Trial.choose", None)
    assert fit(2).engine == "vmap"


def test_a_value_that_is_neither_plain_nor_known_is_refused(tmp_path):
    with pytest.raises(TypeError, match="plain values and tensors, got set"):
        checkpoint.write(tmp_path / "file", {"where": {1, 2}})


def test_all_files_of_a_run_are_safetensors_or_json(tmp_path):
    runs.fit("tensors", tmp_path).save(tmp_path)
    names = {FILE, LOG, "result.safetensors", "history.json", "run.json", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == names
    (tmp_path / ".lock").unlink()  # empty, and not of the run
    for path in tmp_path.glob("*.safetensors"):
        assert b"pickle" not in path.read_bytes()
        with safe_open(path, framework="pt") as file:
            json.loads(file.get_tensor("json").numpy().tobytes())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 2
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) == 1  # as the umask has it, not the private ones of temporary files


def test_stacked_weights_of_a_state_follow_the_population_to_its_device(file):
    state = checkpoint.read(file)["state"]
    population = ge.Population(runs.net, 3).to("meta")
    moved = placed(state, population)
    assert {tensor.device.type for tensor in moved.members.values()} == {"meta"}
    assert moved.losses.device.type == "cpu"


# --- damaged and foreign files ---------------------------------------------------------------


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(whole, file, share):
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=f"truncated, damaged.* for {file}"):
        checkpoint.read(file)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(noise=st.binary(min_size=1, max_size=40), share=st.floats(0, 1))
def test_a_damaged_json_part_is_refused_or_still_a_tree(whole, file, noise, share):
    first = whole.index(b'{"dict"')
    at = first + int(share * (len(whole) - first - len(noise)))
    file.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with contextlib.suppress(CheckpointError):
        checkpoint.read(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage" * 100, b"\xff" * 64, pickle.dumps({"weights": [1.0]}), b"{}"],
    ids=["empty", "text", "ones", "pickle", "json"],
)
def test_a_file_of_another_kind_is_refused_by_fit(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="must be a whole gradevo file"):
        runs.fit("tensors", tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_torch_pickle_and_a_foreign_safetensors_file_are_refused(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "pickle")
    save_file({"weights": torch.ones(2)}, tmp_path / "foreign")
    for name in ("pickle", "foreign"):
        with pytest.raises(CheckpointError, match=name):
            checkpoint.read(tmp_path / name)


def test_a_file_of_another_version_is_refused_with_both_versions(file, monkeypatch):
    monkeypatch.setattr(sealed, "FORMAT", 3)
    with pytest.raises(CheckpointError, match=r"format 3, got format 2.*another version"):
        runs.fit("tensors", file.parent)


@contextlib.contextmanager
def unprivileged():
    """As a user whom permissions bind; root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o555])
def test_a_folder_that_cannot_be_read_or_written_is_refused_before_the_work(mode, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for parent in [folder, *list(folder.parents)[: len(folder.parts) - 3]]:
        parent.chmod(0o755)
    folder.chmod(mode)
    called = []
    try:
        with unprivileged(), pytest.raises(CheckpointError, match=r"Permission denied.*/run/"):
            runs.fit("tensors", folder, callbacks=[called.append])
    finally:
        folder.chmod(0o755)
    assert called == []


# --- another run -----------------------------------------------------------------------------


def wider() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("architecture", {"build": wider}),
        ("training rows", {"train": runs.rows(71)}),
        ("training data", {"kind": "loader"}),
        ("steps", {"steps": 5}),
        ("optimizer", {"optimizer": torch.optim.SGD}),
        ("evolve", {"evolve": ("lr",)}),
        ("options", {"options": {"eps": 1e-6}}),
        ("loss", {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)}),
        ("seed", {"seed": 1}),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_and_kept(name, change, file, whole):
    with pytest.raises(CheckpointError, match=f"but {name}.* is .* in {file.parent} and .* here"):
        runs.fit(folder=file.parent, **change)
    assert file.read_bytes() == whole


def test_another_algorithm_is_refused(file):
    algorithm = ge.Independent(population=3, generations=2, steps=4, batch_size=16)
    with pytest.raises(CheckpointError, match="but algorithm is 'gadam'"):
        ge.fit(
            algorithm, runs.net, nn.functional.cross_entropy, runs.rows(),
            valid=runs.rows(40), engine="loop", checkpoint=file.parent,
        )  # fmt: skip


def test_another_batch_size_of_a_loader_is_refused(tmp_path):
    runs.fit("loader", tmp_path)
    other = DataLoader(TensorDataset(*runs.rows()), batch_size=8, shuffle=True)
    with pytest.raises(CheckpointError, match=r"but .*batch.* is 16"):
        runs.fit(folder=tmp_path, train=other, batch_size=8)


def schedule_of_its_own():
    """A schedule that prints with the address of a function, which no two processes share."""

    def fall(rate: float, progress: float) -> float:
        return 1.0 - rate * progress

    return partial(fall, 0.5)


def test_a_setting_that_prints_with_an_address_is_the_same_in_the_next_call(tmp_path):
    schedules = [schedule_of_its_own(), schedule_of_its_own()]
    assert repr(schedules[0]) != repr(schedules[1])
    first, second = (runs.fit("tensors", tmp_path, schedule=s) for s in schedules)
    assert runs.bits(first) == runs.bits(second)


# --- a full disk -------------------------------------------------------------------------------


def check_it_goes_on(folder: Path) -> None:
    assert not list(folder.glob(f"{disk.UNFINISHED}*"))
    assert not list(folder.glob(".tmp*"))
    assert 1 <= checkpoint.read(folder / FILE)["state"].phases < 3
    assert runs.bits(runs.fit("tensors", folder)) == runs.bits(runs.fit("tensors"))
    assert len((folder / LOG).read_text().splitlines()) == 2


@pytest.mark.parametrize(("what", "good"), [("fsync", 17), ("replace", 8), ("chmod", 8)])
def test_a_write_that_fails_keeps_the_last_good_checkpoint(what, good, tmp_path, monkeypatch):
    calls, real = 0, getattr(os, what)

    def full(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls > good:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, what, full)
        with pytest.raises(CheckpointError, match=f"No space left on device for .*{FILE}"):
            runs.fit("tensors", tmp_path)
    check_it_goes_on(tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB that can be made larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("passes", [True, False])
def test_a_full_disk_costs_no_run_if_it_has_room_for_the_last_save(passes, small_disk, caplog):
    folder, ballast = small_disk / "run", small_disk / "ballast"

    def fill(info):
        if info["generation"] == 1:
            ballast.write_bytes(b"0" * free(small_disk))
        elif passes:
            ballast.unlink()

    def fit():
        return runs.fit("tensors", folder, callbacks=[fill, JsonLines(folder / "own.jsonl")])

    if passes:
        assert runs.bits(fit()) == runs.bits(runs.fit("tensors"))
        assert len((folder / "own.jsonl").read_text().splitlines()) == 2
    else:
        with pytest.raises(CheckpointError, match="No space left on device"):
            fit()
        ballast.unlink()
        check_it_goes_on(folder)
    said = [record.getMessage() for record in caplog.records if "goes on" in record.getMessage()]
    assert [text.partition(":")[0] for text in said][:3] == ["log", "log", "checkpoint"]
    assert len(set(said)) == len(said)  # each once


def free(place: Path) -> int:
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_bsize


def test_an_interrupt_while_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), disk.replacing(tmp_path / "file") as new:
        new.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_weights_are_worth_saving_while_one_member_is_finite():
    population = ge.Population(lambda: nn.Linear(3, 2), 3)
    for i in range(3):
        assert healthy(population)
        next(iter(population.leaves.values())).data[i, 0] = torch.nan
    assert not healthy(population)
