"""MONAI: a segmentation of small volumes made here, with MONAI's own TensorBoard handlers, unchanged.

    pip install monai pytorch-ignite tensorboard
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/monai_segmentation.py

What arrives: one run with `Loss` by iteration, `val_dice` by epoch, and for each epoch a volume, its label and what the network
made of it as animated GIFs, the bytes that MONAI wrote (`input_0_HWD/image`, `input_1_HWD/image`, `output_HWD/image`).
"""

import torch
from monai.data import CacheDataset, DataLoader, create_test_image_3d
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, TensorBoardImageHandler, TensorBoardStatsHandler, ValidationHandler, from_engine
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from monai.transforms import Activationsd, AsDiscreted, Compose, EnsureChannelFirstd, ScaleIntensityd
from monai.utils import set_determinism
from torch.utils.tensorboard import SummaryWriter

set_determinism(0)
torch.set_num_threads(1)
epochs, device = 4, torch.device("cpu")

volumes = [create_test_image_3d(32, 32, 32, num_objs=4, rad_max=8, noise_max=0.3, num_seg_classes=1) for _ in range(12)]
pairs = [{"image": image, "label": label} for image, label in volumes]
prepare = Compose([EnsureChannelFirstd(["image", "label"], channel_dim="no_channel"), ScaleIntensityd("image")])
train_loader = DataLoader(CacheDataset(pairs[:8], prepare, progress=False), batch_size=2, shuffle=True)
val_loader = DataLoader(CacheDataset(pairs[8:], prepare, progress=False), batch_size=2)

network = UNet(spatial_dims=3, in_channels=1, out_channels=1, channels=(8, 16, 32), strides=(2, 2))
to_mask = Compose([Activationsd("pred", sigmoid=True), AsDiscreted("pred", threshold=0.5)])
writer = SummaryWriter("runs/monai")

evaluator = SupervisedEvaluator(
    device=device,
    val_data_loader=val_loader,
    network=network,
    postprocessing=to_mask,
    key_val_metric={"val_dice": MeanDice(include_background=True, output_transform=from_engine(["pred", "label"]))},
    val_handlers=[
        TensorBoardStatsHandler(writer, iteration_log=False, global_epoch_transform=lambda _: trainer.state.epoch),
        TensorBoardImageHandler(
            writer,
            batch_transform=from_engine(["image", "label"]),
            output_transform=from_engine("pred"),
            global_iter_transform=lambda _: trainer.state.epoch,
        ),
    ],
)
trainer = SupervisedTrainer(
    device=device,
    max_epochs=epochs,
    train_data_loader=train_loader,
    network=network,
    optimizer=torch.optim.Adam(network.parameters(), 0.01),
    loss_function=DiceLoss(sigmoid=True),
    train_handlers=[
        TensorBoardStatsHandler(writer, output_transform=from_engine("loss", first=True)),
        ValidationHandler(interval=1, validator=evaluator),
    ],
)
trainer.run()
writer.close()
print(f"dice {evaluator.state.metrics['val_dice']:.3f}")
