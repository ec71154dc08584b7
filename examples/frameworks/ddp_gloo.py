"""torchrun with DistributedDataParallel: a program whose ranks all have a SummaryWriter, as many have.

    TRACELET_BACKEND=mlflow,trackio torchrun --nproc-per-node 2 examples/frameworks/ddp_gloo.py

What arrives: one run, with what rank 0 has written, `loss` and `lr` by step. The other ranks write event files of their own, as
ever, and open no run; `TRACELET_RANKS=all` gives each of them one.
"""

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter

distributed.init_process_group("gloo")
rank, processes = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
torch.set_num_threads(1)

x = torch.randn(512, 8)
y = (x.sum(1, keepdim=True) > 0).float()
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=60)
writer = SummaryWriter("runs/ddp" if rank == 0 else f"others/rank{rank}")

for step in range(60):
    mine = torch.randperm(len(x))[rank:64:processes]
    loss = nn.functional.binary_cross_entropy_with_logits(model(x[mine]), y[mine])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    writer.add_scalar("loss", loss.item(), step)
    writer.add_scalar("lr", schedule.get_last_lr()[0], step)

writer.close()
if rank == 0:
    print(f"loss {loss.item():.3f}")
distributed.destroy_process_group()
