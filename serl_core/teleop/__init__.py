"""Devices a person (or a script in a person's place) corrects the robot with. Never imports jax."""
