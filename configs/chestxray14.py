"""ChestX-ray14: 14 findings, one network.

    python launch.py --mode=prepare --config=configs/chestxray14.py --config.dataset.raw_dir=FOLDER
    python launch.py --mode=train --config=configs/chestxray14.py:densenet121 --workdir=runs/d121

FOLDER is what NIH hands out: the tables and lists, and `images_001/` to `images_012/` or `images/`.

From published weights, on the scale that they were trained on, by the recipe published with them:

    --config=configs/chestxray14.py:eva_x_small --config.init_from=eva_x_small.safetensors
    --config=configs/chestxray14.py:dinov2_base,size=518,probe --config.init_from=rad_dino/

The recipes (`RECIPES`; rates are for a batch of 256 and scale with the batch):

- EVA-X: the authors' scripts, classification/train_files/eva_x/cxr14 of github.com/hustvl/EVA-X
  (Yao et al. 2025, arXiv:2405.05237): rate 1e-3, layer decay .55, weight decay .05, drop path .2,
  5 epochs of warm-up, 45, 30 and 10 epochs. Theirs augment by RandAugment, ours as for any network.
- ViT: Xiao et al., WACV 2023 (arXiv:2210.12843), its code's script for ViT-B on ChestX-ray14: rate
  2.5e-4, layer decay .55, weight decay .05, drop path .2, 5 epochs of warm-up, 75 epochs.
- DINOv2, RAD-DINO: the encoder as it is and a linear head (`probe`, Pérez-García et al. 2025,
  arXiv:2401.10815); fine-tuned, the ViTs' recipe.

None of the recipes was run here to its end: no figure of ours stands beside the published ones yet.
"""

from cxrjax.training import experiment

# Epochs, learning rate for a batch of 256.
_VIT = (75, 2.5e-4)
RECIPES = {
    "eva_x_tiny": (45, 1e-3), "eva_x_small": (30, 1e-3), "eva_x_base": (10, 1e-3),
    "vit_small": _VIT, "vit_base": _VIT, "dinov2_small": _VIT, "dinov2_base": _VIT,
}


def get_config(argument=None):
    """`argument`: model, then size=PIXELS, split=official|chexnet|random, loss=bce|asl|focal,
    normalize=weights, probe (a linear head on the frozen encoder)."""
    arg = experiment.argument(
        argument, model="densenet121", size=224, split="official", loss="bce", normalize="",
        probe=False,
    )
    config = experiment.base("chestxray14", arg.model, arg.size, arg.loss)
    config.dataset.split = arg.split
    config.batch_size = 32
    config.train_for = "10 epochs"
    # No flip: the heart's side is a finding in itself, and markers would be mirrored.
    config.augment.update(rotate=7.0, scale=0.1, shift=0.05, contrast=0.15, brightness=0.05)
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.05, ema_decay=0.999)
    config.normalize.source = arg.normalize
    if arg.model in RECIPES:
        epochs, rate = RECIPES[arg.model]
        config.batch_size = 64
        config.train_for = f"{epochs} epochs"
        config.optimizer.update(learning_rate=rate * config.batch_size / 256, layer_decay=0.55,
                                clip_norm=0.0)
        config.schedule.update(warmup="5 epochs")
        config.model.update(drop_path=0.2, dtype="bfloat16")
    if arg.probe:
        config.scheme.name = "linear_probe"
        config.train_for = "50 epochs"
        config.optimizer.update(learning_rate=1e-3, weight_decay=0.0, ema_decay=0.0,
                                layer_decay=0.0, clip_norm=1.0)
        config.schedule.update(warmup="1 epoch")
        if arg.model in RECIPES:
            config.model.update(drop_path=0.0)
    return config
