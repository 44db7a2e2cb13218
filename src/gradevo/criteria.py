"""What is known of a user's loss: what is around it, what it takes, which labels it leaves out."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from gradevo.losses import OnLogits
from gradevo.swarm.loss import SwarmLoss

LABELS = (nn.CrossEntropyLoss, nn.NLLLoss, functional.cross_entropy, functional.nll_loss)
LOGITS = (
    nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss, functional.multilabel_soft_margin_loss,
    functional.binary_cross_entropy_with_logits,
)  # fmt: skip
PROBABILITIES = (nn.BCELoss, functional.binary_cross_entropy)
SIGNS = (nn.SoftMarginLoss, functional.soft_margin_loss)  # targets are -1 and 1
DISTRIBUTIONS = (nn.KLDivLoss, functional.kl_div)
ENTRYWISE = (  # compare each entry of the output with the target's
    *LOGITS, *PROBABILITIES, *SIGNS, *DISTRIBUTIONS,
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss, nn.HingeEmbeddingLoss,
    functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss,
    functional.poisson_nll_loss, functional.hinge_embedding_loss,
)  # fmt: skip


def unwrapped(loss: Any) -> Any:
    """The loss itself, where a swarm's criterion, `OnLogits` or a partial is around it."""
    loss = _bare(loss)
    return loss.func if isinstance(loss, partial) else loss


def is_cross_entropy(loss: Any) -> bool:
    """Whether targets may be class labels, and outputs are logits or log-probabilities."""
    return one_of_kinds(loss, LABELS)


def one_of_kinds(loss: Any, kinds: tuple[Any, ...]) -> bool:
    """Whether a loss is of one of some classes, or one of some functions."""
    loss = unwrapped(loss)
    if isinstance(loss, nn.Module):
        return isinstance(loss, tuple(kind for kind in kinds if isinstance(kind, type)))
    return any(loss is kind for kind in kinds)


def of_torch(loss: Any) -> bool:
    """Whether a loss is torch's own, and no subclass that may make something else of its input."""
    loss = unwrapped(loss)
    owner = type(loss) if isinstance(loss, nn.Module) else loss
    return str(getattr(owner, "__module__", "")).split(".")[0] == "torch"


def sees_prediction(loss: Any, output: Any) -> bool:
    """Whether a loss of torch gets the prediction as it is."""
    return isinstance(output, Tensor) or isinstance(loss, SwarmLoss | OnLogits)


def ignored(loss: Any) -> int:
    """The label that does not count, in cross-entropy."""
    loss = _bare(loss)
    given = loss.keywords if isinstance(loss, partial) else {}
    return given.get("ignore_index", getattr(loss, "ignore_index", -100))


def _bare(loss: Any) -> Any:
    while isinstance(loss, SwarmLoss | OnLogits):
        loss = loss.loss
    return loss
