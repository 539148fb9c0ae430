"""Do guided texts grow shorter, why, and do reward models judge more than length? See docs/length-bias.md."""
