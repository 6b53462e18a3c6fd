"""How a method is trained: one step, the loop, checkpoints, what is written down."""
