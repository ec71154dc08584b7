"""PyTorch-Ignite: its TensorboardLogger, which writes with tensorboardX where that is installed, else with torch's writer.

    pip install pytorch-ignite tensorboardX
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/ignite_loop.py

What arrives: one run with `training/loss` by iteration, `training/lr/group_0`, and `validation/accuracy` by epoch.
"""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from ignite.handlers import global_step_from_engine
from ignite.handlers.tensorboard_logger import OptimizerParamsHandler, TensorboardLogger
from ignite.metrics import Accuracy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
torch.set_num_threads(1)
x = torch.randn(640, 8)
data = DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
trainer = create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())
evaluator = create_supervised_evaluator(model, {"accuracy": Accuracy()})
trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(data))

with TensorboardLogger(log_dir="runs/ignite") as logger:
    logger.attach_output_handler(
        trainer, Events.ITERATION_COMPLETED, tag="training", output_transform=lambda loss: {"loss": loss}
    )
    logger.attach(trainer, OptimizerParamsHandler(optimizer, tag="training"), Events.EPOCH_STARTED)
    logger.attach_output_handler(
        evaluator, Events.COMPLETED, tag="validation", metric_names="all",
        global_step_transform=global_step_from_engine(trainer),
    )  # fmt: skip
    trainer.run(data, max_epochs=3)

print(f"accuracy {evaluator.state.metrics['accuracy']:.3f}")
