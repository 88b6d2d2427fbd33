"""All that a run's folder is: checkpoints, digests, run log, lock, state, start-up and preemption."""
