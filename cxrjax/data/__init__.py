"""Films in: from files and raw folders to batches."""
