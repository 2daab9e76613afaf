"""What a scheme is as a numerical method, and what a trained network does with it."""
