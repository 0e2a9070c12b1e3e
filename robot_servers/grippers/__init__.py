"""One file per gripper; each satisfies `interface.Gripper`."""
