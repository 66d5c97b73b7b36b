"""Room on the card: readings, estimates and the decision to start."""
