"""What a run leaves to go on from where it was, and how far it is."""
