"""A sparse network's file is small, and gives the network back."""

import json
import math

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gradevo import checkpoint, sealed
from gradevo.errors import CheckpointError
from gradevo.models import LeNet5, mlp
from gradevo.shrink import sparse
from gradevo.shrink.nonzeros import decoded, encoded

pytestmark = pytest.mark.usefixtures("seeded")

TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
]
SHAPES = st.lists(st.integers(0, 40), max_size=3).filter(lambda shape: math.prod(shape) < 4000)


class Holder(nn.Module):
    """A module of any tensors; the names may be odd."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def thinned(net: nn.Module, density: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in net.parameters():
            tensor *= torch.rand(tensor.shape, generator=generator) < density
    return net


def blank(net: nn.Module) -> nn.Module:
    """A module of the same architecture with other numbers."""
    return Holder(**{name: torch.ones_like(b) for name, b in net.named_buffers()})


@st.composite
def tensors(draw) -> Tensor:
    """Any bits, thinned, of any type and shape."""
    dtype, shape, seed = draw(st.sampled_from(TYPES)), draw(SHAPES), draw(st.integers(0, 2**31))
    density = draw(st.sampled_from([0, 0.003, 0.01, 0.1, 0.5, 1]))
    generator = torch.Generator().manual_seed(seed)
    width = 1 if dtype == torch.bool else dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    rows = (math.prod(shape), width)
    content = torch.randint(high, rows, dtype=torch.uint8, generator=generator)
    content *= torch.rand(rows[0], 1, generator=generator) < density
    return content.flatten().view(dtype).reshape(shape)


# --- what comes back -----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(tensor=tensors())
@example(tensor=torch.tensor(0.0))
@example(tensor=torch.zeros(0, 3))
@example(tensor=torch.zeros(10**6))
@example(tensor=torch.eye(700))
@example(tensor=torch.cat([torch.ones(1), torch.zeros(300_000), torch.ones(1)]))
@example(tensor=torch.cat([torch.zeros(255), torch.ones(1), torch.zeros(510), torch.ones(2)]))
@example(tensor=torch.cat([torch.zeros(65535), torch.ones(1), torch.zeros(254), torch.ones(1)]))
@example(tensor=torch.randn(40, 30).t())
def test_any_tensor_comes_back_with_its_bits_but_for_the_sign_of_zeros(tensor):
    before = bits(tensor)
    back = decoded(encoded(tensor), tuple(tensor.shape))
    wanted = tensor.contiguous().clone()
    if tensor.is_floating_point():
        minus = torch.full((), -0.0, dtype=tensor.dtype)
        wanted = wanted.flatten().view(torch.uint8).reshape(-1, tensor.itemsize)
        wanted[(wanted == minus.reshape(1).view(torch.uint8)).all(1)] = 0
    assert bits(back) == bits(wanted)
    assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
    assert bits(tensor) == before


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(parts=st.dictionaries(st.sampled_from(["a", "a/b", "values", "ä ß"]), tensors()))
def test_any_module_comes_back_from_its_file(tmp_path, parts):
    net = Holder(**{name: _plain(tensor) for name, tensor in parts.items()})
    sparse.save(net, tmp_path / "file")
    back = sparse.load(tmp_path / "file", lambda: blank(net))
    assert {n: bits(b) for n, b in back.named_buffers()} == {
        n: bits(b) for n, b in net.named_buffers()
    }


def _plain(tensor: Tensor) -> Tensor:
    """Without negative zeros."""
    return decoded(encoded(tensor), tuple(tensor.shape))


@pytest.mark.parametrize("density", [0.02, 0.9])
def test_special_numbers_keep_their_bits_and_zeros_lose_their_sign(tmp_path, density):
    odd = torch.tensor([0x7FC00001, 0x7F800000, 1, -0x400000]).int().view(torch.float32)
    tensor = thinned(nn.Linear(100, 10), density).weight.detach().flatten()
    tensor[:5] = torch.cat([odd, torch.tensor([-0.0])])
    sparse.save(Holder(x=tensor), tmp_path / "file")
    back = sparse.load(tmp_path / "file", lambda: Holder(x=torch.ones(1000))).x
    assert bits(back[:4]) == bits(odd)
    assert not back.signbit()[4]
    assert torch.equal(back[4:], tensor[4:])


def test_parameters_buffers_and_ties_come_back_into_what_build_makes(tmp_path):
    def build() -> nn.Module:
        net = nn.Sequential(nn.Linear(60, 60), nn.BatchNorm1d(60), nn.Linear(60, 60)).eval()
        net[2].weight = net[0].weight
        net[2].requires_grad_(False)
        return net

    net = thinned(build(), 0.1).train()
    net(torch.randn(9, 60))
    sparse.save(net, tmp_path / "file")
    back = sparse.load(str(tmp_path / "file"), build)
    assert back.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(back.state_dict()[n], t) for n, t in net.state_dict().items())
    assert back[2].weight is back[0].weight
    assert not back.training and not back[2].bias.requires_grad
    names = {entry.partition("/")[2] for entry in load_file(tmp_path / "file")}
    assert names == net.state_dict().keys() - {"2.weight"}  # what is tied is there once


# --- size ----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [mlp(784, 300, 100, 10), LeNet5], ids=["mlp", "lenet5"])
@pytest.mark.parametrize(
    "density, share", [(0, 0.01), (0.01, 0.025), (0.05, 0.08), (0.1, 0.14), (0.5, 0.54), (1, 1.01)]
)
def test_the_size_follows_the_weights_that_are_not_zero(tmp_path, build, density, share):
    net = thinned(build(), density)
    sparse.save(net, tmp_path / "file")
    save_file(net.state_dict(), tmp_path / "dense")
    assert (tmp_path / "file").stat().st_size <= share * (tmp_path / "dense").stat().st_size


@pytest.mark.parametrize(
    "tensor, kinds",
    [
        (torch.ones(1000), {"dense"}),
        (torch.eye(3), {"dense"}),
        (torch.eye(100), {"values", "gaps"}),
        (torch.ones(100, 10) * (torch.arange(10) < 5), {"values", "mask"}),
    ],
)
def test_the_smallest_way_is_taken(tensor, kinds):
    assert encoded(tensor).keys() == kinds


def test_gaps_are_in_the_type_that_takes_the_fewest_bytes():
    near, far = torch.zeros(10**5), torch.zeros(10**6)
    near[::100], far[::10_000] = 1, 1
    assert encoded(near)["gaps"].dtype == torch.uint8
    assert encoded(far)["gaps"].dtype == torch.uint16


# --- what is refused -----------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    sparse.save(thinned(mlp(20, 30, 5)(), 0.05), tmp_path / "file")
    return tmp_path / "file"


@pytest.mark.parametrize(
    "build, message",
    [
        (
            mlp(20, 30, 30, 5),
            r"got \[\] only in .*file and \['4.bias', '4.weight'\] only in the module",
        ),
        (lambda: nn.Linear(20, 30), r"got \['0.bias', .*\] only in .* and \['bias', 'weight'\]"),
        (
            mlp(20, 31, 5),
            r"'0.weight' of shape \(30, 20\) \(torch.float32\) in .* and \(31, 20\) \(.*float32\)",
        ),
        (lambda: mlp(20, 30, 5)().half(), r"'0.weight' of .*32\) in .* \(30, 20\) \(torch.float16"),
    ],
)
def test_another_architecture_is_refused_with_the_names_that_differ(file, build, message):
    net = build()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"must hold the tensors of the module .*{message}"):
        sparse.load(file, lambda: net)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())


def test_what_build_makes_has_to_be_a_module(file):
    with pytest.raises(TypeError, match=r"build: must give an nn\.Module, got int"):
        sparse.load(file, lambda: 3)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(file, share):
    whole = file.read_bytes()
    cut = file.with_name("cut")
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=f"truncated, damaged.* for {cut}"):
        sparse.load(cut, mlp(20, 30, 5))


def test_no_file_and_foreign_files_are_refused(tmp_path):
    build = mlp(2, 1)
    with pytest.raises(CheckpointError, match="No such file"):
        sparse.load(tmp_path / "none", build)
    checkpoint.write(tmp_path / "checkpoint", {"a": torch.ones(3)})
    with pytest.raises(CheckpointError, match="must be a sparse gradevo file, got another one"):
        sparse.load(tmp_path / "checkpoint", build)
    sparse.save(build(), tmp_path / "sparse")
    with pytest.raises(CheckpointError, match="must be a whole gradevo file"):
        checkpoint.read(tmp_path / "sparse")
    sealed.save(tmp_path / "new", {}, **{"gradevo-sparse": "2"})
    with pytest.raises(CheckpointError, match="of format 1, got format 2"):
        sparse.load(tmp_path / "new", build)


VALUES = {"values/weight": torch.ones(2)}
BROKEN = {
    "no parts": {},
    "no positions": VALUES,
    "no values": {"gaps/weight": torch.zeros(2).byte()},
    "a part too many": VALUES
    | {"mask/weight": torch.ones(1).byte(), "dense/weight": torch.ones(8)},
    "an unknown part": {"dense/weight": torch.ones(2, 4), "dense/other": torch.ones(2, 4)},
    "another shape": {"dense/weight": torch.ones(8)},
    "too few positions": VALUES | {"gaps/weight": torch.zeros(1).byte()},
    "too many positions": VALUES | {"mask/weight": torch.full((1,), 255).byte()},
    "positions outside": VALUES | {"gaps/weight": torch.full((2,), 4).byte()},
    "negative gaps": VALUES | {"gaps/weight": torch.full((2,), -1)},
    "gaps that are no numbers": VALUES | {"gaps/weight": torch.ones(2)},
    "one value for all": {"values/weight": torch.ones(1), "gaps/weight": torch.zeros(3).byte()},
    "values in a table": {"values/weight": torch.ones(2, 1), "gaps/weight": torch.ones(2).byte()},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_parts_that_do_not_fit_are_refused(tmp_path, kind):
    about = {"gradevo-sparse": "1", "shapes": json.dumps({"weight": [2, 4]})}
    sealed.save(tmp_path / "file", BROKEN[kind], **about)
    with pytest.raises(CheckpointError, match="must be a whole sparse gradevo file"):
        sparse.load(tmp_path / "file", lambda: nn.Linear(4, 2, bias=False))


@pytest.mark.parametrize("shapes", ["[", "[]", "3", '{"weight": 3}', '{"weight": ["a"]}', None])
def test_shapes_that_are_none_are_refused(tmp_path, shapes):
    about = {"gradevo-sparse": "1"} | ({"shapes": shapes} if shapes else {})
    sealed.save(tmp_path / "file", {"dense/weight": torch.ones(2, 4)}, **about)
    with pytest.raises(CheckpointError, match="checkpoint: must "):
        sparse.load(tmp_path / "file", lambda: nn.Linear(4, 2, bias=False))


def test_a_type_that_cannot_be_stored_is_named_and_the_old_file_stays(file):
    before = file.read_bytes()
    with pytest.raises(TypeError, match=r"module: must hold .*'x' of torch.complex128"):
        sparse.save(Holder(x=torch.ones(3, dtype=torch.complex128)), file)
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(file):
    with pytest.raises(CheckpointError, match="must be writable"):
        sparse.save(mlp(2, 1)(), file / "below")
    assert [path.name for path in file.parent.iterdir()] == ["file"]
