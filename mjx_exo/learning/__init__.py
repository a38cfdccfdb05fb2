"""Learning to act: PPO for one or several actors, checkpoints of the whole training state, and the run around them."""
