"""Lightning: a fit with its TensorBoardLogger, unchanged.

    pip install lightning tensorboard
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/lightning_fit.py

What arrives: one run with `train_loss`, `val_loss` and `epoch` by global step, the hyperparameters that the module saves,
and `hp_metric`, which Lightning writes beside them.
"""

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lightning.seed_everything(0)
torch.set_num_threads(1)


class Signs(lightning.LightningModule):
    """Tells whether the sum of eight numbers is positive."""

    def __init__(self, width=16, lr=0.01):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))

    def loss(self, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(self.net(x), y)

    def training_step(self, batch, index):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.hparams.lr)


x = torch.randn(640, 8)
rows = TensorDataset(x, (x.sum(1, keepdim=True) > 0).float())
train, val = torch.utils.data.random_split(rows, [512, 128])
trainer = lightning.Trainer(
    logger=TensorBoardLogger("logs", name="lightning"),
    max_epochs=3,
    log_every_n_steps=4,
    accelerator="cpu",
    devices=1,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Signs(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=128))
