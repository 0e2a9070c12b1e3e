"""Checks any robot server from outside, as a client: ``python -m robot_servers.conformance ADDRESS``."""
