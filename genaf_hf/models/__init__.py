"""Public encoders of every family as image classifiers, and images in [0, 1] to their logits."""
