"""From films and a config to checkpoints: experiment, losses, optimizers, steps, loop, schemes."""
