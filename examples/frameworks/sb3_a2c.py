"""Stable-Baselines3: A2C on CartPole, with the library's own TensorBoard log.

    pip install stable-baselines3
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/sb3_a2c.py

What arrives: one run with `rollout/*`, `time/*` and `train/*` by time step.
"""

import torch
from stable_baselines3 import A2C

torch.set_num_threads(1)
model = A2C("MlpPolicy", "CartPole-v1", seed=0, device="cpu", tensorboard_log="runs/sb3")
model.learn(total_timesteps=4_000, log_interval=20)
