"""Looking at what guidance does: token rewards, plots."""
