"""The models that one LLM is made of, by their names, and the names that they have within a release."""

from dataclasses import dataclass

from trireme_runtime.model_names import SEPARATOR, model_and_release

from ..errors import OperatorError
from ..family import NAME, families, model_names
from ..layout import Layout

#: The committed LLM, by the name of its public ensemble.
DEFAULT_LLM = "ensemble"


def scoped(model: str, release: str | None) -> str:
    """The name of a model, or an ensemble, within a release; None: its own name."""
    return model if release is None else f"{model}{SEPARATOR}{release}"


def unscoped(name: str) -> tuple[str, str | None]:
    """A model's own name, and the release that it belongs to."""
    model, release = model_and_release(name)
    return model, release or None


@dataclass(frozen=True)
class Llm:
    """One LLM. name: its public ensemble. The others are models, and `llmapi` is the second ensemble over them."""

    name: str
    preprocessing: str
    engine: str
    postprocessing: str
    unary: str
    llmapi: str

    @classmethod
    def named(cls, name: str) -> "Llm":
        """The LLM whose public ensemble has this name. Its models need not be there.

        Raises OperatorError for what can be no name.
        """
        if not NAME.fullmatch(name):
            raise OperatorError(f"there is no LLM {name[:60]!r}: that is no name")
        if name == DEFAULT_LLM:
            return cls(name, "preprocessing", "tensorrt_llm", "postprocessing", "ensemble_unary", "llmapi")
        preprocessing, engine, postprocessing, unary, ensemble, llmapi = model_names(name)
        return cls(ensemble, preprocessing, engine, postprocessing, unary, llmapi)

    @property
    def steps(self) -> tuple[str, str, str]:
        """The models that an answer passes through, in that order."""
        return self.preprocessing, self.engine, self.postprocessing

    @property
    def models(self) -> tuple[str, ...]:
        """The models that a release pins a version of."""
        return (*self.steps, self.unary)

    @property
    def ensembles(self) -> tuple[str, str]:
        """The graphs over them."""
        return self.name, self.llmapi


def llms(layout: Layout) -> list[Llm]:
    """The LLMs of a checkout."""
    return [Llm.named(name) for name in (DEFAULT_LLM, *families(layout))]


def find_llm(layout: Layout, name: str) -> Llm:
    """The LLM of this name. Raises OperatorError if the checkout has none."""
    found = {llm.name: llm for llm in llms(layout)}
    if name not in found:
        raise OperatorError(f"there is no LLM {name!r}; there are {', '.join(found)}")
    return found[name]
