"""Does an AR-RM judge whole responses as well as a trajectory RM? docs/reward-accuracy.md has the answer."""
