"""`trireme build`: the stages from a checkpoint to a published version, and what runs them."""
