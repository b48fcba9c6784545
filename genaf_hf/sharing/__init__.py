"""What is told of a model and shared: its record, its card, pictures, and the folder that holds them."""
