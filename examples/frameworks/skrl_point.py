"""skrl: PPO on a few environments of gymnasium's kind; what its agent logs, unchanged.

    pip install skrl torch
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/skrl_point.py

With Isaac Lab it is the same: TRACELET_BACKEND=mlflow ./isaaclab.sh -p scripts/reinforcement_learning/skrl/train.py --task ...

skrl has a small writer of its own, which gives TensorBoard's EventFileWriter float32 scalars.

What arrives: one run with `Loss / *`, `Reward / *`, `Episode / *`, `Stats / *` and `Policy / Standard deviation`, each 20 times,
at the time steps at which skrl wrote them. MLflow has no parentheses in names: `(mean)` stands as `_x28_mean_x29_` there.
"""

import gymnasium
import numpy as np
import torch
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from skrl.utils.model_instantiators.torch import deterministic_model, gaussian_model

set_seed(0)
torch.set_num_threads(1)


class Point(gymnasium.Env):
    """A point in the plane, to be pushed to the origin within 32 steps; the action is a velocity."""

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.position, {}

    def step(self, action):
        self.position, self.steps = np.clip(self.position + 0.2 * action, -2, 2).astype(np.float32), self.steps + 1
        distance = float(np.linalg.norm(self.position))
        return self.position, -distance, distance < 0.05, self.steps >= 32, {}


env = wrap_env(gymnasium.vector.SyncVectorEnv([Point] * 8))
spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": env.device}
network = [{"name": "net", "input": "OBSERVATIONS", "layers": [32, 32], "activations": "elu"}]
models = {
    "policy": gaussian_model(**spaces, network=network, output="ACTIONS"),
    "value": deterministic_model(**spaces, network=network, output="ONE"),
}
memory = RandomMemory(memory_size=32, num_envs=env.num_envs, device=env.device)
config = PPO_CFG(rollouts=32, learning_epochs=4, mini_batches=4, learning_rate=3e-3)
config.experiment.directory, config.experiment.experiment_name = "runs/skrl", "point"
config.experiment.write_interval, config.experiment.checkpoint_interval = 64, 0

agent = PPO(models=models, memory=memory, cfg=config, **spaces)
trainer = SequentialTrainer(env=env, agents=agent, cfg={"timesteps": 1280, "headless": True, "disable_progressbar": True})
trainer.train()
