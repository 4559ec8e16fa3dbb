"""From films and a config to checkpoints: losses, optimizers, steps, the loop."""
