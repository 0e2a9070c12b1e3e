"""Controller servers: everything that runs on the robot's own computer. Never imports jax."""
