"""Does an AR-RM judge as well when its adapter sleeps on the prompt? docs/activated.md has the answer."""
