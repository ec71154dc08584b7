"""Accelerate: its tracker for TensorBoard (`log_with="tensorboard"`), unchanged.

    pip install accelerate tensorboard
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/accelerate_tracker.py

What arrives: one run with `train_loss` and `lr` by step, and the configuration given to `init_trackers` as its parameters.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(0)
torch.set_num_threads(1)
config = {"lr": 0.01, "batch_size": 32, "epochs": 3, "optimizer": "Adam"}

accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir="runs/accelerate")
accelerator.init_trackers("signs", config=config)

x = torch.randn(640, 8)
y = (x.sum(1, keepdim=True) > 0).float()
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), config["lr"])
batches = DataLoader(TensorDataset(x, y), batch_size=config["batch_size"], shuffle=True)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)

step = 0
for _ in range(config["epochs"]):
    for inputs, targets in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.log({"train_loss": loss.item(), "lr": optimizer.param_groups[0]["lr"]}, step=step)
        step += 1
accelerator.end_training()
