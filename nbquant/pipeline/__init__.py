"""What changes the model: prune, fine-tune."""
