"""The emulated Franka arm: an FCI server that the real libfranka talks to, in an environment of its own."""
