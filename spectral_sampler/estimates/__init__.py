"""What can be told of a reference store as a whole: its wrong labels, its clusters."""
