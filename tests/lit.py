"""A user's LightningModule, its data, and the real Trainer without its chatter."""

import logging

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gradevo.randomness import generator_from

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
QUIET = [
    pytest.mark.filterwarnings(f"ignore:.*{text}")
    for text in (
        "does not have many workers", "number of training batches", "exists and is not empty",
        "`isinstance.treespec, LeafSpec.` is deprecated", "callbacks used to create the checkpoint",
    )
]  # fmt: skip


class Net(LightningModule):
    """A user's module, as tutorials write them."""

    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        middle = [nn.BatchNorm1d(8)] if norm else []
        self.net = nn.Sequential(
            nn.Linear(4, 8), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)
        )

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        output = self(batch[0])
        self.log("val_loss", F.cross_entropy(output, batch[1]), prog_bar=True)
        self.log_dict({"val_acc": (output.argmax(1) == batch[1]).float().mean()})

    def test_step(self, batch, batch_idx):
        self.log("test_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        weights, biases = [], []
        for name, parameter in self.named_parameters():
            (biases if name.endswith("bias") else weights).append(parameter)
        groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases}]
        optimizer = torch.optim.AdamW(groups, lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rows(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 4, generator=generator_from(seed))
    return TensorDataset(x, (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long())


TRAIN, VALID = rows(44, 1), rows(20, 2)  # the last batch is smaller


def loaders():
    """In an order that depends on the epoch alone."""
    order = DistributedSampler(TRAIN, num_replicas=1, rank=0, shuffle=True)
    return DataLoader(TRAIN, 16, sampler=order), DataLoader(VALID, 8)


def trainer(epochs: int, *callbacks: Callback, **more) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    given = {"accelerator": "cpu", "enable_checkpointing": saves, **quiet, **more}
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **given)


def fit(module, epochs: int = 2, *callbacks: Callback, **more) -> Trainer:
    made = trainer(epochs, *callbacks, **more)
    made.fit(module, *loaders())
    return made


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
