"""What a run leaves behind beside its checkpoints: how it went, and how good the model is."""
