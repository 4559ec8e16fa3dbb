"""A trained network in use: predictions for new films, the window."""
