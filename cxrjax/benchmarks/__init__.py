"""How fast training and inference are, alone and against PyTorch."""
