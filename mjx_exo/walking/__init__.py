"""The walking task: environment, commands, rewards, observations, sensors and reference controllers."""
