"""The exact cache: an answer that must be the same again is not computed again."""
