"""A small training program: plain TensorBoard code.

    python train.py [NAME] [STEPS]
"""

import math
import sys

import torch
from torch.utils.tensorboard import SummaryWriter

name = sys.argv[1] if len(sys.argv) > 1 else "run-1"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 500

torch.manual_seed(sum(name.encode()))
torch.set_num_threads(1)
inputs = torch.randn(256, 8)
targets = inputs.sum(1, keepdim=True)
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

with SummaryWriter(f"runs/{name}") as writer:
    writer.add_text("about", f"A line through {len(inputs)} points", 0)
    for step in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        writer.add_scalar("loss", loss, step)
        if step % 50 == 0:
            writer.add_histogram("weight", model.weight, step)
            writer.add_scalar("digits", -math.log10(loss.item() + 1e-12), step)
