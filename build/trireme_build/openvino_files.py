"""Writes OpenVINO models so that the same graph always gives the same bytes."""

import re
from pathlib import Path

import openvino as ov

#: What OpenVINO calls nodes and tensors that were given no name: a type, and how many the process has made.
_NUMBERED = re.compile(r"[A-Z][A-Za-z0-9]*_\d+(\.\d+)?")


def save_model(model: ov.Model, path: Path) -> None:
    """Write `path` (.xml) and the .bin beside it, with the weights as they are; nameless nodes are named by order."""
    for index, node in enumerate(model.get_ordered_ops()):
        if _NUMBERED.fullmatch(node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_at_{index}")
        for output in node.outputs():
            names = output.get_names()
            given = {name for name in names if not _NUMBERED.fullmatch(name)}
            if given != names:
                output.set_names(given)
    ov.save_model(model, path, compress_to_fp16=False)
