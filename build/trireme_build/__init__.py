"""From a checkpoint to a published version in the model repository."""
