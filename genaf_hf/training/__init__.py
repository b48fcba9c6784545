"""Gen-AF as a Trainer, and what its steps are made of."""
