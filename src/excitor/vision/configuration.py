"""Which two frozen models belong together, and what of the encoder is looked at."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from excitor.errors import ExcitorError


FEATURES = ("full", "patch", "cls")


class ExcitorVisionConfig(PretrainedConfig):
    """Configuration of :class:`~excitor.vision.model.ExcitorForConditionalGeneration`.

    Args:
        text_config: Configuration of the language model, or its fields.
        vision_config: Configuration of the vision encoder, or its fields.
        language_model: Where the language model's weights are: a folder or a hub id.
        vision_model: Where the encoder's are.
        feature_layer: Which hidden states of the encoder are its features: -1 is its output, -2 the layer before, ...
        feature_select: ``full`` (class token, if the encoder has one, and patches), ``patch`` or ``cls``.
        **kwargs: As for every configuration of transformers.

    Raises:
        ExcitorError: ``feature_select`` is none of the choices.
    """

    model_type = "excitor_vision"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        language_model: str | None = None,
        vision_model: str | None = None,
        feature_layer: int = -1,
        feature_select: str = "full",
        **kwargs: Any,
    ) -> None:
        if feature_select not in FEATURES:
            raise ExcitorError(f"feature_select must be one of {', '.join(FEATURES)}, got {feature_select!r}.")
        self.text_config = _config(text_config, "llama")
        self.vision_config = _config(vision_config, "clip_vision_model")
        self.language_model, self.vision_model = language_model, vision_model
        self.feature_layer, self.feature_select = feature_layer, feature_select
        super().__init__(**kwargs)

    @property
    def vision_width(self) -> int:
        """Width of the features, D."""
        return feature_width(self.vision_config)


def feature_width(vision_config: PretrainedConfig) -> int:
    """How wide the features of an encoder are.

    Raises:
        ExcitorError: Its configuration does not say.
    """
    width = getattr(vision_config, "hidden_size", None)
    if not isinstance(width, int):
        raise ExcitorError(
            f"the configuration of a {vision_config.model_type!r} vision encoder has no hidden_size: it must say how "
            "wide the encoder's features are."
        )
    return width


def _config(given: PretrainedConfig | dict[str, Any] | None, default: str) -> PretrainedConfig:
    if isinstance(given, PretrainedConfig):
        return given
    fields = {"model_type": default} | (given or {})
    return AutoConfig.for_model(**fields)


AutoConfig.register(ExcitorVisionConfig.model_type, ExcitorVisionConfig)
