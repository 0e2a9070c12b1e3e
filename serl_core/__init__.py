"""Actor, learner and everything between them: sample-efficient reinforcement learning on real robots."""
