"""What the name that a model is loaded under says: its own, and the release that it belongs to."""

#: Between the two.
SEPARATOR = "@"


def model_and_release(name: str) -> tuple[str, str]:
    """A model's own name, and the release that it was loaded for; "" where it was loaded for none."""
    model, _, release = name.partition(SEPARATOR)
    return model, release
