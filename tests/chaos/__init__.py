"""The gateway and its engine as real processes, and what can be done to them."""
