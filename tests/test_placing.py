"""Where members are and how they travel: quotas are kept, few move, bits arrive as they were."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradevo.distributed.joining import environment
from gradevo.distributed.placing import balanced, blocks, near_parents, quotas, rows_at
from gradevo.distributed.rows import fingerprints, from_bytes, row_bytes
from gradevo.share import mixed

SIZES = st.tuples(st.integers(1, 30), st.integers(1, 8)).filter(lambda pair: pair[0] >= pair[1])


def counts(homes, ranks):
    return torch.bincount(homes, minlength=ranks).tolist()


@given(SIZES)
def test_quotas_are_even_and_blocks_keep_them(sizes):
    members, ranks = sizes
    found = quotas(members, ranks)
    assert sum(found) == members and max(found) - min(found) <= 1
    assert counts(blocks(members, ranks), ranks) == found
    assert blocks(members, ranks).tolist() == sorted(blocks(members, ranks).tolist())


@given(SIZES, st.integers(0, 10**6))
def test_no_more_members_move_than_quotas_ask_for(sizes, seed):
    members, ranks = sizes
    before = torch.randint(ranks, (members,), generator=torch.Generator().manual_seed(seed))
    after = balanced(before, ranks)
    assert counts(after, ranks) == quotas(members, ranks)
    pairs = zip(counts(before, ranks), quotas(members, ranks), strict=True)
    assert int((before != after).sum()) == sum(max(0, have - room) for have, room in pairs)


@given(SIZES, st.integers(0, 10**6))
def test_children_are_near_a_parent_wherever_there_is_room(sizes, seed):
    members, ranks = sizes
    generator = torch.Generator().manual_seed(seed)
    parents = torch.randint(members, (members, 2), generator=generator)
    homes = blocks(members, ranks)
    born = near_parents(parents, homes, ranks)
    assert counts(born, ranks) == quotas(members, ranks)
    far = (homes[parents] != born.unsqueeze(1)).all(dim=1)
    assert int(far.sum()) <= members - members // ranks  # a rank at least has its own


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_rows_of_bytes_are_the_members_bit_for_bit(count, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "weight": torch.randn(5, 3, 2, generator=generator),
        "half": torch.randn(5, 3, generator=generator).bfloat16(),
        "counter": torch.randint(9, (5,), generator=generator),
        "flags": torch.rand(5, 1, generator=generator) > 0.5,
        "transposed": torch.randn(2, 5, generator=generator, dtype=torch.float64).T,
        "nothing": torch.empty(5, 0),
    }
    tensors["weight"][0, 0, 0] = torch.nan
    rows = torch.randint(5, (count,), generator=generator)
    found = from_bytes(row_bytes(tensors, rows), tensors)
    for name, t in tensors.items():
        assert found[name].dtype == t.dtype
        torch.testing.assert_close(found[name], t[rows], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(fingerprints(found), fingerprints(tensors)[rows])
    changed = {**tensors, "weight": tensors["weight"].clone()}
    changed["weight"][1, 2, 1] += 1e-6
    assert (fingerprints(changed) != fingerprints(tensors)).tolist() == [False, True] + 3 * [False]


def test_rows_at_a_rank_are_ascending():
    assert rows_at(torch.tensor([1, 0, 1, 1]), 1).tolist() == [0, 2, 3]


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=4))
def test_seeds_are_in_range_and_differ_by_every_number(numbers):
    seed = mixed(*numbers)
    assert 0 <= seed < 2**62
    for i in range(len(numbers)):
        other = [n + (j == i) for j, n in enumerate(numbers)]
        assert mixed(*other) != seed


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("gpu[007-012,15],b2", "gpu007"), ("a-b[3,5]", "a-b3"), ("x,y", "x")],
)
def test_slurms_variables_say_where_ranks_meet(nodes, first):
    found = environment({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "1",
                         "SLURM_JOB_NODELIST": nodes, "SLURM_JOB_ID": "50007"})  # fmt: skip
    assert found == {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": first,
                     "MASTER_PORT": "30007"}  # fmt: skip


def test_a_process_that_is_alone_has_no_place_and_a_lost_one_is_told():
    assert environment({}) == environment({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == {}
    with pytest.raises(ValueError, match="MASTER_ADDR: must be set"):
        environment({"RANK": "0", "WORLD_SIZE": "2"})
