"""The window: a film, its findings, and the region that speaks for the chosen one."""
