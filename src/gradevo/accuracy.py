"""The share of answers that are right: said once, for fronts, objectives, commands and reports."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradevo import trees
from gradevo.criteria import (
    DISTRIBUTIONS,
    ENTRYWISE,
    LABELS,
    LOGITS,
    PROBABILITIES,
    SIGNS,
    ignored,
    one_of_kinds,
)


@dataclass(frozen=True)
class Accuracy:
    """Share of answers that are right, by what a loss takes outputs and targets for.

    Labels 0..C-1 and one-hot or probability targets: the largest output on axis 1 is an answer,
    one a row, or one a pixel. Entries that are trained apart (binary cross-entropy): each is one,
    its threshold 0 for logits and 1/2 for probabilities. Labels that are ignored, that are none of
    0..C-1, and NaN do not count; an output that is NaN is wrong.

    Attributes:
        loss: that the networks are trained on.

    Example:
        >>> right = Accuracy(torch.nn.BCEWithLogitsLoss())
        >>> right(torch.tensor([[-2.0], [0.3]]), torch.tensor([[0.0], [1.0]]))
        tensor(1., dtype=torch.float64)
    """

    loss: Any

    def __call__(self, output: Any, target: Any) -> Tensor:
        """The share, float64; NaN where targets are no labels, or none of them counts."""
        answers = self.answers(trees.prediction(output), target)
        if answers is None:
            return torch.tensor(torch.nan, dtype=torch.float64)
        return answers.double().mean()

    def answers(self, output: Tensor, target: Any) -> Tensor | None:
        """Which of the answers that count are right, `(answers,)`; None: targets are no labels."""
        if not isinstance(target, Tensor):
            return None
        several = output.dim() > 1 and output.shape[1] > 1
        if several and output.shape == target.shape and self._of_classes(target):
            return _largest(output, target.argmax(dim=1)).flatten()
        if one_of_kinds(self.loss, (*LOGITS, *PROBABILITIES, *SIGNS)):
            return self._entries(output, target)
        alike = several and output[:, 0].shape == target.shape
        if target.is_floating_point() or one_of_kinds(self.loss, ENTRYWISE) or not alike:
            return None
        counted = (target >= 0) & (target < output.shape[1]) & (target != ignored(self.loss))
        return _largest(output, target)[counted]

    def _of_classes(self, target: Tensor) -> bool:
        """Whether targets of the outputs' shape say which class is the right one."""
        if one_of_kinds(self.loss, (*LABELS, *DISTRIBUTIONS)):
            return True
        return bool(((target == 0) | (target == 1)).all() and (target.sum(dim=1) == 1).all())

    def _entries(self, output: Tensor, target: Tensor) -> Tensor | None:
        if output.shape != target.shape:
            return None
        level = 0.5 if one_of_kinds(self.loss, PROBABILITIES) else 0.0
        border = 0.0 if one_of_kinds(self.loss, SIGNS) else 0.5
        right = ((output > level) == (target > border)) & ~output.isnan()
        return right[~target.isnan()]


def _largest(output: Tensor, label: Tensor) -> Tensor:
    """Whether the largest output is the label's; there is none where one is NaN."""
    return (output.argmax(dim=1) == label) & ~output.isnan().any(dim=1)
