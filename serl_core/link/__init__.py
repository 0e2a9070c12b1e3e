"""The lossless link between actors and the learner; its public face is `serl_core.transport`."""
