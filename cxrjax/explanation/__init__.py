"""Where a network looked: heat maps, marked regions, their scores."""
