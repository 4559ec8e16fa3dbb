"""How states are updated: one file per training scheme (see `steps.py` for the contract)."""
