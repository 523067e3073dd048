"""How good a detector is, and what is wrong with a data set."""
