"""skorch: its TensorBoard callback, on a classifier with scikit-learn's interface.

    pip install skorch
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/skorch_fit.py

What arrives: one run with `Loss/train_loss`, `Loss/valid_loss`, `valid_acc` and `dur` by epoch.
"""

import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import TensorBoard
from torch import nn
from torch.utils.tensorboard import SummaryWriter

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(640, 8)
y = (x.sum(1) > 0).long()

net = NeuralNetClassifier(
    nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)),
    criterion=nn.CrossEntropyLoss,
    max_epochs=8,
    lr=0.1,
    callbacks=[TensorBoard(SummaryWriter("runs/skorch"))],
    verbose=0,
)
net.fit(x.numpy(), y.numpy())
print(f"accuracy {net.score(x.numpy(), y.numpy()):.3f}")
