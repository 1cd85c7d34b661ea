"""What every page is made with: a template, the style that all share, and charts that say what they show."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .palette import DARK, LIGHT

_SHARED = Path(__file__).parent


@dataclass(frozen=True)
class Chart:
    """spoken: the same in words, for those who do not see it."""

    title: str
    hint: str
    svg: Markup
    spoken: str


def environment(folder: Path = _SHARED) -> Environment:
    """Of the templates in `folder`; what they are given is escaped, and what they miss is an error.

    Any template may include `style.css.jinja` and import `parts.html.jinja`.
    """
    made = Environment(
        loader=FileSystemLoader([folder, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(light=LIGHT, dark=DARK)
    return made
