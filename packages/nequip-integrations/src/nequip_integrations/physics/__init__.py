"""What a model must obey whatever it was trained on, graded."""
