"""How states are updated, one file each: supervised, mutual, distill, grouped, multitask."""
