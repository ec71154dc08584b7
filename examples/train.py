"""Train a small network on data made here: plain TensorBoard code.

    python examples/train.py LOGDIR [LEARNING_RATE]
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

logdir = sys.argv[1] if len(sys.argv) > 1 else "runs/spirals"
learning_rate = float(sys.argv[2]) if len(sys.argv) > 2 else 0.02
epochs, batch_size = 20, 64

torch.manual_seed(0)
torch.set_num_threads(1)


def spirals(n):
    """Return points on two arms of a spiral, and which arm each is on."""
    arm = torch.randint(0, 2, (n,))
    turn = torch.rand(n).sqrt() * 3 * torch.pi
    angle = turn + arm * torch.pi
    points = torch.stack([turn * angle.cos(), turn * angle.sin()], 1) / 9 + 0.03 * torch.randn(n, 2)
    return points, arm.float()


x_train, y_train = spirals(2000)
x_val, y_val = spirals(500)
model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
loss_of = nn.BCEWithLogitsLoss()

train = SummaryWriter(f"{logdir}/train")
val = SummaryWriter(f"{logdir}/val")
train.add_text("about", f"Two spirals, **{len(x_train)}** points to train on, {len(x_val)} to check.", 0)
train.add_graph(model, x_train[:1])


def decision_image():
    """Return the network's answer on a 64 x 64 grid as an RGB image."""
    axis = torch.linspace(-1.2, 1.2, 64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
    with torch.no_grad():
        answer = model(grid).sigmoid().reshape(64, 64)
    return torch.stack([answer, 0.3 * torch.ones_like(answer), 1 - answer])


step = 0
for epoch in range(epochs):
    for rows in torch.randperm(len(x_train)).split(batch_size):
        loss = loss_of(model(x_train[rows]).squeeze(1), y_train[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        train.add_scalar("loss", loss.item(), step)
        step += 1
    with torch.no_grad():
        logits = model(x_val).squeeze(1)
    accuracy = ((logits > 0) == (y_val > 0.5)).float().mean().item()
    val.add_scalar("loss", loss_of(logits, y_val).item(), epoch)
    val.add_scalar("accuracy", accuracy, epoch)
    train.add_scalars("weights/norm", {"first": model[0].weight.norm(), "last": model[4].weight.norm()}, epoch)
    if epoch % 5 == 4:
        train.add_histogram("weights/hidden", model[2].weight, epoch)
        val.add_image("decision", decision_image(), epoch)
        val.add_pr_curve("pr", y_val, logits.sigmoid(), epoch)

figure, axes = plt.subplots(figsize=(4, 4))
axes.scatter(*x_val.T, c=logits.sigmoid(), s=8, cmap="coolwarm")
val.add_figure("answers", figure, epochs)
hparams = {"learning_rate": learning_rate, "batch_size": batch_size, "optimizer": "Adam"}
val.add_hparams(hparams, {"hparam/accuracy": accuracy}, run_name=".")

train.close()
val.close()
print(f"accuracy {accuracy:.3f}")
