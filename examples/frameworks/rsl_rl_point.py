"""rsl_rl: PPO on many small environments at once, as Isaac Lab trains its robots; what its runner logs, unchanged.

    pip install rsl-rl-lib
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/rsl_rl_point.py

With Isaac Lab itself it is the same, since its Python reads the environment too:

    TRACELET_BACKEND=mlflow ./isaaclab.sh -p scripts/reinforcement_learning/rsl_rl/train.py --task ... --logger tensorboard

What arrives: one run with `Loss/*`, `Policy/mean_std`, `Perf/*`, `Episode/*`, what the environment tells (`Metrics/*`), and
`Train/mean_reward` and `Train/mean_episode_length` by iteration and once more by seconds (`Train/mean_reward/time`).
"""

import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict

torch.manual_seed(0)
torch.set_num_threads(1)


class Points(VecEnv):
    """Points in the plane, each to be pushed to the origin within 32 steps; the action is a velocity."""

    def __init__(self, num_envs):
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, 2, 32
        self.device, self.cfg = "cpu", {"speed": 0.2}
        self.position = 2 * torch.rand(num_envs, 2) - 1
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)

    def get_observations(self):
        return TensorDict({"policy": self.position.clone()}, batch_size=[self.num_envs])

    def step(self, actions):
        self.position = (self.position + self.cfg["speed"] * actions.clamp(-1, 1)).clamp(-2, 2)
        self.episode_length_buf += 1
        distance = self.position.norm(dim=1)
        time_outs = self.episode_length_buf >= self.max_episode_length
        done = time_outs | (distance < 0.05)
        again = int(done.sum())
        told = {"distance": distance.mean(), "Metrics/arrived": (distance < 0.05).float().mean()}
        self.position[done] = 2 * torch.rand(again, 2) - 1
        self.episode_length_buf[done] = 0
        return self.get_observations(), -distance, done, {"time_outs": time_outs, "log": told}


network = {"class_name": "MLPModel", "hidden_dims": [32, 32], "activation": "elu"}
config = {
    "num_steps_per_env": 16,
    "save_interval": 50,
    "logger": "tensorboard",
    "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
    "actor": {**network, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0}},
    "critic": dict(network),
    "algorithm": {"class_name": "PPO", "learning_rate": 3e-3, "num_learning_epochs": 4, "num_mini_batches": 4},
}
runner = OnPolicyRunner(Points(num_envs=64), config, log_dir="logs/rsl_rl/points", device="cpu")
runner.learn(num_learning_iterations=25, init_at_random_ep_len=True)
