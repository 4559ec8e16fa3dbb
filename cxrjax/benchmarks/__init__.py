"""How fast training and inference are, alone and against the same network in PyTorch."""
