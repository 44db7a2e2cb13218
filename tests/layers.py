"""Small networks of every kind of layer, to hold an engine against the loop."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Adds in place, multiplies, concatenates channels, and pools by a mean over axes."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.one(x).relu()
        out = self.norm(self.two(first))
        out += first
        both = torch.cat([F.relu(out), 0.5 * first], 1)
        return self.head(both.mean((2, 3)))


class Shapes(nn.Module):
    """Views, permutations, softmax, matrix products and slices of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("shift", torch.rand(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, 4, 6)
        rows, steps, width = x.shape
        k = self.keys(x * self.scale + self.shift)
        weights = torch.softmax(k @ x.transpose(1, 2) / width**0.5, dim=-1)
        mixed = (weights @ x).view(rows, steps * width)[:, : 2 * width]
        halves = mixed.reshape(x.size(0), 2, -1).permute(1, 0, 2)
        return self.head(halves[0] - halves[1].clamp(min=-1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.head(self.norm(x + mixed)[:, 0])


class Across(nn.Module):
    """Attention from some rows to others, with its weights, steps before rows, no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 3, bias=False)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.transpose(0, 1)
        mixed, weights = self.attention(steps[:2], steps, steps.tanh())
        return self.head(torch.cat([mixed[0], weights[:, 1]], dim=1))


class Masked(nn.Module):
    """Attention with two kinds of mask, per head weights, and keys of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.usual = nn.MultiheadAttention(6, 2, batch_first=True)
        self.other = nn.MultiheadAttention(6, 2, batch_first=True, kdim=3, vdim=3)
        self.register_buffer("later", torch.ones(4, 4).triu(1).bool())
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.where(x[..., 0] > 0.5, -9.0, -x[..., 1].abs())
        less = self.later.to(x.dtype) * -2
        y, weights = self.usual(x, x, x, padding, attn_mask=less, average_attn_weights=False)
        z, _ = self.usual(y, y, y, attn_mask=self.later, is_causal=True, need_weights=False)
        z = self.other(z, x[..., :3], x[..., 3:])[0] + weights.sum((1, 3)).unsqueeze(-1)
        return self.head(z.mean(1))


class Heads(nn.Module):
    """Attention as a function, causal and with a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(6, 18)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.wide(x).reshape(x.size(0), 4, 3, 2, 3).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3)
        mixed = F.scaled_dot_product_attention(mixed, k, v, mixed.sum(-1, keepdim=True) * 0.1)
        return self.head(mixed.transpose(1, 2).flatten(2).mean(1))


class Encoder(nn.Module):
    """A stack of encoder layers that does not look ahead."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            6, 2, 8, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6), enable_nested_tensor=False)
        self.last = nn.TransformerEncoderLayer(6, 3, 5, dropout=0.0)
        self.register_buffer("later", nn.Transformer.generate_square_subsequent_mask(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.body(x, mask=self.later, is_causal=True)
        left_out = (x[..., 0] > 1.0).transpose(0, 1)
        return self.head(self.last(mixed, src_key_padding_mask=left_out).mean(1))


class Words(nn.Module):
    """Embeds numbers of words that it makes of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 6)
        self.unit = nn.GRU(6, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words((x.abs() * 10).long() % 5)
        return self.head(self.unit(words)[0].sum(1))


class Functional(nn.Module):
    """Layers called as functions, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.table = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(F.linear(x, self.body.weight, self.body.bias))
        x = F.gelu(self.body(x)) + F.layer_norm(F.relu(x + 1, inplace=True), (6,))
        return F.linear(x, self.table)


class Shared(nn.Module):
    """Uses its input where no weight has touched it, and a constant of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(x - torch.tensor([0.5]))[:, :3]
        return self.layer(torch.flip(x, [1])) * gate + x.mean(1, keepdim=True)


Build = Callable[[], nn.Module]


def row(*layers: Callable[[], nn.Module]) -> Build:
    return lambda: nn.Sequential(*(layer() for layer in layers))


IMAGE, SIGNAL, ROW, STEPS = (2, 8, 8), (2, 12), (6,), (4, 6)
LAYERS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "perceptron": (row(lambda: nn.Linear(6, 7), nn.ReLU, lambda: nn.Linear(7, 3)), ROW),
    "without bias": (row(lambda: nn.Linear(6, 7, bias=False), nn.Tanh,
                         lambda: nn.Linear(7, 3, bias=False)), ROW),
    "norms of rows": (row(lambda: nn.Linear(6, 8), lambda: nn.BatchNorm1d(8), nn.GELU,
                          lambda: nn.LayerNorm(8), lambda: nn.Linear(8, 3)), ROW),
    "groups of rows": (row(lambda: nn.Linear(6, 8), lambda: nn.GroupNorm(2, 8),
                           lambda: nn.Linear(8, 3)), ROW),
    "steps": (row(lambda: nn.Linear(6, 5), nn.SiLU, nn.Flatten, lambda: nn.Linear(20, 3)), STEPS),
    "images": (row(lambda: nn.Conv2d(2, 4, 3), nn.ReLU, lambda: nn.MaxPool2d(2),
                   lambda: nn.Conv2d(4, 6, 3, padding="same", bias=False),
                   lambda: nn.BatchNorm2d(6), nn.ELU, lambda: nn.AvgPool2d(3), nn.Flatten,
                   lambda: nn.Linear(6, 3)), IMAGE),
    "strides and groups": (row(lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
                               lambda: nn.GroupNorm(2, 4), nn.ReLU,
                               lambda: nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=4),
                               lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten,
                               lambda: nn.Linear(4, 3)), IMAGE),
    "other padding": (row(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
                          lambda: nn.AdaptiveMaxPool2d(2), nn.Flatten,
                          lambda: nn.Linear(12, 3)), IMAGE),
    "upwards": (row(lambda: nn.Conv2d(2, 4, 3, stride=2), nn.ReLU,
                    lambda: nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1, groups=2),
                    nn.Flatten, lambda: nn.Linear(128, 3)), IMAGE),
    "signals": (row(lambda: nn.Conv1d(2, 4, 3, padding="same"), lambda: nn.BatchNorm1d(4), nn.ReLU,
                    lambda: nn.MaxPool1d(2), lambda: nn.Conv1d(4, 4, 3, stride=2, groups=2),
                    lambda: nn.ConvTranspose1d(4, 2, 2), nn.Flatten,
                    lambda: nn.Linear(6, 3)), SIGNAL),
    "a mean of all batches": (row(lambda: nn.Linear(6, 4), lambda: nn.BatchNorm1d(4, momentum=None),
                                  lambda: nn.Linear(4, 3)), ROW),
    "no statistics": (row(lambda: nn.Conv2d(2, 4, 3),
                          lambda: nn.BatchNorm2d(4, track_running_stats=False, affine=False),
                          nn.Flatten, lambda: nn.Linear(144, 3)), IMAGE),
    "own slopes": (row(lambda: nn.Linear(6, 4), lambda: nn.PReLU(4), lambda: nn.Linear(4, 3)), ROW),
    "in place": (row(lambda: nn.Linear(6, 4), lambda: nn.ReLU(inplace=True),
                     lambda: nn.Linear(4, 3)), ROW),
    "log of shares": (row(lambda: nn.Linear(6, 3), lambda: nn.LogSoftmax(dim=1)), ROW),
    "words": (Words, ROW),
    "residual": (Residual, IMAGE),
    "shapes": (Shapes, STEPS),
    "attention": (Attention, STEPS),
    "attention across": (Across, STEPS),
    "masked attention": (Masked, STEPS),
    "heads": (Heads, STEPS),
    "encoder": (Encoder, STEPS),
    "functional": (Functional, ROW),
    "shared": (Shared, ROW),
}  # fmt: skip
