"""From normal images to a trained model."""
