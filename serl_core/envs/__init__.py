"""The robot as a Gymnasium environment, and the wrappers around it. Never imports jax."""
