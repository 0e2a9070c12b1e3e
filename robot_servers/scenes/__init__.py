"""Simulated tasks: MJCF models and the few facts a task needs from them."""
