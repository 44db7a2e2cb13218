"""A population that begins with what is there: trained networks, checkpoints, a former run."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from gradevo import kept, validation
from gradevo.attributes import described, difference
from gradevo.disk import check_archive, most_unpacked, opened
from gradevo.distributed.rows import fingerprints
from gradevo.errors import CheckpointError
from gradevo.fields import settle
from gradevo.front import Front
from gradevo.names import RESULT as FILE
from gradevo.population import Population
from gradevo.probe import agree
from gradevo.randomness import drawn_key, generator_from
from gradevo.result import Result
from gradevo.share import Share, mixed
from gradevo.structure import (
    Tensors,
    check_members,
    keys_of,
    structure_of,
    tensors_of,
    with_tensors,
)
from gradevo.trees import Tree

Source = nn.Module | Mapping[str, Tensor] | Result | Front | str | Path


@dataclass(frozen=True)
class Start:
    """Weights for a population to begin with, instead of new ones.

    The first members are the networks as they are, in their order; the further ones are copies
    of them in turn, each changed in its own way, so that there is something to choose from.
    From a former run come its members, best first, as many as there is room for.

    Attributes:
        source: one network or a sequence of networks: each a module, a state dict, a file of one
            (`.safetensors`, or what `torch.save` wrote, read without unpickling code), a
            `Result`, a `Front`, or the folder of a finished run.
        noise: what is added to each weight of the further members, as a normal deviate of this
            share of the root mean square of its tensor.
        dropout: share of the weights, of two dimensions or more, that are zero in each of the
            further members, the others left as they are.

    Raises:
        ValueError: a share that is out of range, or no network.

    Example:
        >>> import gradevo as ge
        >>> trained = nn.Linear(4, 1)
        >>> population = ge.Population(lambda: nn.Linear(4, 1), size=3)
        >>> _ = Start(trained, noise=0.1).into(population, generator=torch.Generator())
        >>> torch.equal(population.member(0).weight, trained.weight)
        True
        >>> torch.equal(population.member(1).weight, trained.weight)
        False
    """

    source: Source | Sequence[Source]
    noise: float = 0.1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        settle(self, noise=validation.not_negative, dropout=validation.share)
        if isinstance(self.source, Sequence) and len(self.source) == 0:
            raise ValueError("start: must hold at least one network, got none")

    @classmethod
    def of(cls, start: "Start | Source | Sequence[Source]") -> "Start":
        """A start as it is, or the default one from networks."""
        return start if isinstance(start, Start) else cls(start)

    @torch.no_grad()
    def into(
        self,
        population: Population,
        *,
        generator: Generator,
        share: Share | None = None,
        backwards: bool = False,
        example: Tree | None = None,
    ) -> dict[str, Any]:
        """Overwrite a population's members.

        Args:
            population: of the networks' architecture.
            generator: of the further members' changes.
            share: which members of a larger population these are; None: all of it.
            backwards: count members from the last, which for GEMONN is the densest.
            example: some inputs, on which networks and members must agree; None: not looked at.

        Returns:
            What tells this start from others, as plain values.

        Raises:
            TypeError: a source that is no network, nor anything that holds one.
            ValueError: more networks than members, or of another architecture; or one that
                computes something else than `build`'s with the same weights.
            CheckpointError: a file or folder that cannot be read, or a run that has not finished.
        """
        share = share or Share.whole(population.size)
        networks = self._networks(population.member(0), share.of)
        key = drawn_key(generator)
        for row, number in enumerate(share.ids):
            i = share.of - 1 - number if backwards else number
            network = networks[i % len(networks)]
            if i < len(networks):
                population.load_row(row, network)
                _check_agrees(population.member(row), network, example)
                continue
            population.load_row(row, self._changed(network, generator_from(mixed(key, i))))
        stacked = [fingerprints({n: t[None] for n, t in tensors_of(m).items()}) for m in networks]
        prints = torch.cat(stacked).tolist()
        return {"noise": self.noise, "dropout": self.dropout, "networks": prints}

    def _networks(self, template: nn.Module, room: int) -> list[nn.Module]:
        several = isinstance(self.source, Sequence) and not isinstance(self.source, str)
        sources = list(cast(Sequence[Source], self.source)) if several else [self.source]
        networks = [network for source in sources for network in _read(source, template)]
        if several and len(networks) > room:
            raise ValueError(
                f"start: must hold at most as many networks as there are members ({room}), "
                f"got {len(networks)}"
            )
        for network in networks:
            _check_same(template, network)
        return networks[:room]

    def _changed(self, network: nn.Module, generator: Generator) -> nn.Module:
        tensors = {name: tensor.clone() for name, tensor in tensors_of(network).items()}
        structure = structure_of(network)
        for name in structure.trainable:
            tensors[name] = self._disturbed(tensors[name], generator)
        for name, row in structure.still:
            tensors[name][row] = tensors_of(network)[name][row]
        return with_tensors(network, tensors)

    def _disturbed(self, tensor: Tensor, generator: Generator) -> Tensor:
        draws = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        coins = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
        size = self.noise * tensor.double().square().mean().sqrt().item()
        changed = tensor + (size * draws).to(tensor)
        if tensor.dim() < 2:
            return changed
        return changed.masked_fill((coins < self.dropout).to(tensor.device), 0.0)


# --- where networks come from --------------------------------------------------------------


def _read(source: Any, template: nn.Module) -> list[nn.Module]:
    """The networks that a source holds, each a module of its own."""
    if isinstance(source, nn.Module):
        return [source]
    if isinstance(source, Result | Front):
        losses = source.losses if isinstance(source, Result) else source.points.losses
        return _rows(source.members.tensors, losses, template)
    if isinstance(source, Mapping):
        return [_loaded(source, template, "state dict")]
    if isinstance(source, str | Path):
        path = Path(source)
        return _of_folder(path, template) if path.is_dir() else [_of_file(path, template)]
    raise TypeError(
        "start: must be modules, state dicts, files of them, results or folders of finished runs, "
        f"got {type(source).__name__}"
    )


def _rows(tensors: Tensors, losses: Tensor, template: nn.Module) -> list[nn.Module]:
    """Every member of stacked tensors, the lowest loss first."""
    mine = {name: tuple(t.shape) for name, t in tensors_of(template).items()}
    theirs = {name: tuple(t.shape[1:]) for name, t in tensors.items()}
    if mine != theirs:
        different = sorted(set(mine.items()) ^ set(theirs.items()))[:4]
        raise ValueError(f"start: must be of the architecture of build, got {different}")
    order = losses.argsort(stable=True).tolist()
    return [with_tensors(template, {n: t[i] for n, t in tensors.items()}) for i in order]


def _of_folder(folder: Path, template: nn.Module) -> list[nn.Module]:
    if not (folder / FILE).exists():
        raise CheckpointError(
            f"start: must be the folder of a finished run, got {folder} without {FILE}"
        )
    found = kept.read(folder)
    losses = found["points"]["losses"] if "points" in found else found["losses"]
    return _rows(found["tensors"], losses, template)


def _of_file(path: Path, template: nn.Module) -> nn.Module:
    try:
        with opened(path):  # no pipe or device
            packed = zipfile.is_zipfile(path)
        if packed:
            check_archive(path, most_unpacked(path.stat().st_size))
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, weights_only=True)
    except Exception as error:  # torch raises many kinds
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        if isinstance(error, UnpicklingError):
            reason = "a pickled module or a foreign file (save model.state_dict() instead)"
        kind = "start: must be a readable file of a state dict"
        raise CheckpointError(f"{kind}, got {reason} for {path}") from error
    if not isinstance(found, Mapping):
        raise TypeError(f"start: must be a state dict, got {type(found).__name__} in {path}")
    return _loaded(found, template, str(path))


def _check_same(template: nn.Module, network: nn.Module) -> None:
    """The network is of the architecture that `build` gives."""
    try:
        check_members([template, network], "start")
    except ValueError as error:
        said = str(error).replace("in member 0", "by build").replace("in member 1", "by start")
        raise ValueError(said) from None


def _check_agrees(member: nn.Module, network: nn.Module, example: Tree | None) -> None:
    """Weights alone do not make a network: attributes and code must be those of `build`."""
    if example is None or agree(member, network, example):
        return
    path = difference(described(member), described(network))
    raise ValueError(
        "start: must compute what build's networks compute with the same weights, got a "
        f"{type(network).__name__} that does not"
        + (f": {path or 'its class'!r} differs" if path is not None else "")
    )


def _tied(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Tied weights that a file has under one name only, under all of them."""
    names = keys_of(module)
    found = {names[key]: value for key, value in state.items() if key in names}
    return {key: found[name] for key, name in names.items() if name in found}


def _loaded(state: Mapping[str, Any], template: nn.Module, where: str) -> nn.Module:
    copies = {name: tensor.clone() for name, tensor in tensors_of(template).items()}
    module = with_tensors(template, copies)
    try:
        module.load_state_dict({**_tied(module, state), **state})
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"start: must be of the architecture of build, got {reason} ({where})"
        ) from error
    return module
