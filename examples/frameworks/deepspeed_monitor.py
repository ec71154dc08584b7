"""DeepSpeed: its monitor, asked for in the configuration as ever, and what the program adds to it.

    pip install deepspeed tensorboard
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/deepspeed_monitor.py

or as a job of several processes, of which only rank 0 writes:

    TRACELET_BACKEND=mlflow,trackio torchrun --nproc-per-node 2 examples/frameworks/deepspeed_monitor.py

What arrives: one run with `Train/Samples/lr` by samples, which DeepSpeed writes at each step, and `Train/Samples/train_loss`,
which the program writes through the same monitor. All are float64, as they were given.

Where there is a C++ compiler, DeepSpeed on a CPU compiles a part of itself when it runs for the first time: that takes a minute.
"""

import os

import deepspeed
import torch
from torch import nn

torch.manual_seed(0)
torch.set_num_threads(1)
alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
for name, value in alone.items():  # as a launcher sets them
    os.environ.setdefault(name, value)

x = torch.randn(640, 8)
y = (x.sum(1, keepdim=True) > 0).float()
config = {
    "train_batch_size": 32,
    "optimizer": {"type": "Adam", "params": {"lr": 0.02, "torch_adam": True}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 0.02, "warmup_num_steps": 10, "total_num_steps": 60}},
    "tensorboard": {"enabled": True, "output_path": "runs/deepspeed", "job_name": "signs"},
}
deepspeed.init_distributed("gloo")
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()

for _ in range(3):
    for rows in torch.arange(len(x)).split(32):
        mine = rows[rank::processes]
        loss = nn.functional.binary_cross_entropy_with_logits(engine(x[mine]), y[mine])
        engine.backward(loss)
        engine.step()
        engine.monitor.write_events([("Train/Samples/train_loss", loss.item(), engine.global_samples)])

if rank == 0:
    print(f"loss {loss.item():.3f}")
torch.distributed.destroy_process_group()
