"""Outputs that approach their bounds through a sigmoid: found in autograd's graph, and its slope.

A swarm's direction has the size of its cloud. Sent back through a sigmoid it is multiplied by the
sigmoid's slope, and an output that is sure and wrong would hardly move. Divided by the slope, the
direction is the one of what goes into the sigmoid; the gradient of cross-entropy is such a one.
"""

import re
from typing import Any

from torch import Tensor

SATURATING = ("Sigmoid", "Tanh", "Softmax", "SafeSoftmax")
KEEPING = frozenset(
    ("View", "UnsafeView", "ReshapeAlias", "AsStrided", "Squeeze", "Unsqueeze", "Slice", "Select",
     "Unbind", "Stack", "Cat", "Transpose", "Permute", "T", "Clone", "Expand", "Index", "Alias",
     "ToCopy", "Mul", "Div", "Add", "Sub", "Rsub", "Neg")
)  # fmt: skip
LONGEST = 20  # steps to look back
FLATTEST = 1e-6  # of q (1 - q): an output further out counts as if it were there


def saturates(output: Tensor) -> bool:
    """Whether an output is that of a sigmoid, tanh or softmax, perhaps moved, scaled or reshaped.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> saturates(4 * x.sigmoid()), saturates(x * 2)
        (True, False)
    """
    node: Any = output.grad_fn
    for _ in range(LONGEST):
        if node is None:
            return False
        name = re.sub(r"Backward\d*$", "", node.name())
        if name in SATURATING:
            return True
        inputs = [function for function, _ in node.next_functions if function is not None]
        if name not in KEEPING or (len(inputs) != 1 and name not in ("Stack", "Cat")):
            return False
        node = inputs[0]
    return False


def slope(w: Tensor, low: float, high: float) -> Tensor:
    """The slope of a sigmoid between the bounds, where its value is w; 1 in the middle.

    Outputs outside of the bounds do not come from such a sigmoid: there it is 1.
    """
    found = (w - low).mul_(high - w).mul_(4 / (high - low) ** 2)  # 4 q (1 - q)
    outside = found < 0
    return found.clamp_(min=4 * FLATTEST).masked_fill_(outside, 1.0)
