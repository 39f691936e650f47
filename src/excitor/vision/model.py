"""A frozen language model and a frozen vision encoder as one model of transformers."""

import copy
import functools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self, cast

import torch
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)

from excitor import model as _model  # noqa: F401  (registers the method)
from excitor.errors import ExcitorError
from excitor.layer import ExcitorLayer
from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.encoder import encode, load_encoder, read_vision_config
from excitor.vision.inputs import check_names, count_of_rows
from excitor.visual import Pictures, seeing, seen


class ExcitorForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model that answers about pictures; neither it nor its vision encoder is trained.

    The pictures reach it through an Excitor adapter with visual prompts (paper, section 3.3), and through nothing
    else: no token stands for a picture, and a row without one runs as it would without vision. The adapter is put on
    by :meth:`from_frozen`, or as on any other base: ``peft.get_peft_model(model, ExcitorConfig())``,
    ``peft_config`` of TRL's trainers, ``model.add_adapter``.

    Example::

        model = ExcitorForConditionalGeneration.from_frozen(
            "huggyllama/llama-7b", "openai/clip-vit-large-patch14", ExcitorConfig()
        )

    Args:
        config: Of both models.
        language_model: The language model; a new one with random weights when not given.
        encoder: The vision encoder, likewise.
    """

    config: ExcitorVisionConfig
    config_class = ExcitorVisionConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: ExcitorVisionConfig,
        language_model: PreTrainedModel | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__(config)
        self.language_model: Any = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.vision_model: Any = encoder or AutoModel.from_config(config.vision_config)
        self.requires_grad_(False)
        self.vision_model.eval()

    @classmethod
    def from_frozen(
        cls,
        language_model: str | PreTrainedModel,
        vision_model: str | nn.Module,
        peft_config: PeftConfig | None = None,
        *,
        feature_layer: int = -1,
        feature_select: str = "full",
        vision_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Put two frozen models together.

        Args:
            language_model: Folder, hub id, or the model itself.
            vision_model: Likewise; a module that is no model of transformers needs a ``config`` with ``hidden_size``
                and must answer as :func:`excitor.vision.encoder.encode` says.
            peft_config: Adapter to put on the language model; ``vision_width`` is set to that of the encoder.
            feature_layer: See :class:`ExcitorVisionConfig`.
            feature_select: See :class:`ExcitorVisionConfig`.
            vision_kwargs: For the encoder's ``from_pretrained``.
            **kwargs: For the language model's ``from_pretrained``, such as ``dtype`` or ``quantization_config``.

        Raises:
            ExcitorError: A model cannot be found, or the adapter does not fit.
        """
        if isinstance(vision_model, str):
            vision_config = read_vision_config(vision_model)
            encoder: nn.Module = load_encoder(vision_model, vision_config, **(vision_kwargs or {}))
        else:
            encoder, vision_config = vision_model, cast(Any, vision_model).config
        text = _load_text(language_model, kwargs) if isinstance(language_model, str) else language_model
        # Copies: a configuration sets the attention of those in it, and these two models have chosen theirs.
        config = ExcitorVisionConfig(
            copy.deepcopy(text.config),
            copy.deepcopy(vision_config),
            language_model=text.name_or_path or None,
            vision_model=getattr(encoder, "name_or_path", None) or None,
            feature_layer=feature_layer,
            feature_select=feature_select,
        )
        model = cls(config, text, encoder)
        model.name_or_path = text.name_or_path  # what PEFT writes down as the adapter's base
        if peft_config is not None:
            model.add_adapter(peft_config, adapter_name="default")
        return model

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        language_model: str | PreTrainedModel | None = None,
        vision_model: str | nn.Module | None = None,
        vision_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """What :meth:`save_pretrained` wrote, together with the two frozen models that it names.

        Args:
            pretrained_model_name_or_path: Folder or hub id of the trained part.
            language_model: To use in place of the one it names.
            vision_model: Likewise.
            vision_kwargs: As for :meth:`from_frozen`.
            **kwargs: As for :meth:`from_frozen`.

        Raises:
            ExcitorError: It names no models and none are given, or they do not fit.
        """
        from excitor.checkpoint import read_adapter_config

        source = os.fspath(pretrained_model_name_or_path)
        for of_auto_class in ("config", "adapter_kwargs"):  # about this folder, which is read here
            kwargs.pop(of_auto_class, None)
        try:
            config = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ExcitorError(
                f"{source} is neither a folder that ExcitorForConditionalGeneration has saved nor such a model on the "
                f"hub ({str(error).splitlines()[0]})"
            ) from error
        if not isinstance(config, ExcitorVisionConfig):
            raise ExcitorError(f"{source} holds a {type(config).__name__}, expected an ExcitorVisionConfig.")
        text, encoder = language_model or config.language_model, vision_model or config.vision_model
        if text is None or encoder is None:
            raise ExcitorError(
                f"{source} does not name its {'language' if text is None else 'vision'} model, which was made in "
                "memory: give it as language_model= or vision_model=."
            )
        read_adapter_config(source)  # says what is wrong with it before two models are loaded
        model = cls.from_frozen(
            text,
            encoder,
            feature_layer=config.feature_layer,
            feature_select=config.feature_select,
            vision_kwargs=vision_kwargs,
            **kwargs,
        )
        model.load_trained(source)
        return model.eval()

    def load_trained(self, directory: str | os.PathLike[str]) -> None:
        """Put the adapter in a folder on the model.

        Raises:
            ExcitorError: It is damaged, or was made for other models.
        """
        from excitor.checkpoint import attach_adapter

        attach_adapter(self, os.fspath(directory))  # changes the language model in place
        self._hf_peft_config_loaded = True

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: str | os.PathLike[str], **kwargs: Any
    ) -> None:
        """Write what was trained, and the names of the frozen models.

        Args:
            save_directory: Receives ``config.json``, ``adapter_config.json``, ``adapter_model.safetensors``.
            **kwargs: As in transformers.

        Raises:
            ExcitorError: There is no adapter.
        """
        if not getattr(self, "_hf_peft_config_loaded", False):
            raise ExcitorError("there is nothing trained to save: put an adapter on the model first.")
        super().save_pretrained(save_directory, **kwargs)
        self.config.save_pretrained(save_directory)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Features of pictures, ``(N, 3, H, W)`` to ``(N, V, D)``; see :func:`excitor.vision.encoder.encode`."""
        config = self.config
        return encode(self.vision_model, pixel_values, layer=config.feature_layer, select=config.feature_select)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        num_images: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """What the language model answers, seeing the pictures.

        Args:
            input_ids: ``(B, M)``; or ``inputs_embeds`` among ``kwargs``.
            attention_mask: ``(B, M)``.
            labels: ``(B, M)``, -100 where there is none.
            pixel_values: Of N pictures, all rows' one after another, ``(N, 3, H, W)``.
            image_features: In place of these their features, ``(N, V, D)``, from :meth:`encode_images`.
            num_images: How many belong to each row, ``(B,)``; one each when not given.
            **kwargs: For the language model.

        Raises:
            ExcitorError: The numbers do not agree, there are pictures and nothing that could see them, or pictures
                under another name.
        """
        check_names(kwargs)
        given = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        with self._seeing(given, pixel_values, image_features, num_images):
            return self.language_model(input_ids, attention_mask=attention_mask, labels=labels, **kwargs)

    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        input_ids: Tensor | None = None,
        *,
        pixel_values: Tensor | None = None,
        image_features: Tensor | None = None,
        num_images: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's ``generate``, seeing the pictures; their features are computed once.

        Arguments as for :meth:`forward` and for ``generate``.
        """
        if "inputs" in kwargs:  # what generate's first argument is called in transformers
            if input_ids is not None:
                raise ExcitorError("give input_ids or inputs, not both: they are the same tokens.")
            input_ids = kwargs.pop("inputs")
        check_names(kwargs)
        given = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        with self._seeing(given, pixel_values, image_features, num_images):
            return self.language_model.generate(input_ids, **kwargs)

    def _seeing(
        self,
        rows: Tensor | None,
        pixel_values: Tensor | None,
        image_features: Tensor | None,
        num_images: Tensor | None,
    ) -> AbstractContextManager[None]:
        if self.training:
            self._check_checkpointing()
        if pixel_values is not None and image_features is not None:
            raise ExcitorError("give pixel_values or image_features, not both: they are the same pictures.")
        images = pixel_values if image_features is None else image_features
        batch = None if rows is None else len(rows)
        if num_images is not None:
            num_images = count_of_rows(num_images)
        if num_images is None and images is not None:
            if batch not in (None, len(images)):
                raise ExcitorError(
                    f"there are {len(images)} pictures for {batch} rows: say with num_images how many belong to each."
                )
            num_images = torch.ones(len(images), dtype=torch.long)
        counted = 0 if num_images is None else int(num_images.sum())
        if num_images is not None and batch not in (None, len(num_images)):
            raise ExcitorError(f"num_images speaks of {len(num_images)} rows, but there are {batch}.")
        if counted != (0 if images is None else len(images)):
            found = 0 if images is None else len(images)
            raise ExcitorError(f"num_images counts {counted} pictures, but {found} were given.")
        if images is None or num_images is None or counted == 0:
            return seeing(None)
        if not self._sees():
            raise ExcitorError(
                "there are pictures, but no adapter that could see them: put one on with peft_config=ExcitorConfig()."
            )
        features = self.encode_images(images) if image_features is None else images
        return seeing(Pictures.of_rows(features, num_images))

    def _check_checkpointing(self) -> None:
        """Refuse checkpoints that would compute their part again without the pictures, and wrong gradients with it."""
        for module in self.language_model.modules():
            if getattr(module, "gradient_checkpointing", False):
                run = getattr(module, "_gradient_checkpointing_func", None)
                if getattr(run, "keywords", {}).get("context_fn") is not _see_again:
                    raise ExcitorError(
                        "gradient checkpointing was switched on at the language model, which forgets the pictures: "
                        "call gradient_checkpointing_enable() of the model that sees."
                    )

    def _sees(self) -> bool:
        return any(isinstance(module, ExcitorLayer) and module.excitor_visual for module in self.modules())

    def train(self, mode: bool = True) -> Self:
        """See ``nn.Module.train``; the frozen encoder stays in evaluation mode."""
        super().train(mode)
        self.vision_model.eval()
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] = checkpoint, **kwargs: Any
    ) -> None:
        """As in transformers, but what is computed again sees the same pictures."""
        if enable and getattr(gradient_checkpointing_func, "keywords", {}).get("use_reentrant"):
            raise ExcitorError("gradient checkpointing of a model that sees needs use_reentrant=False.")
        again = functools.partial(gradient_checkpointing_func, context_fn=_see_again)
        super()._set_gradient_checkpointing(enable, again, **kwargs)

    @property
    def base_model(self) -> Any:
        """The language model without its head, seeing the pictures: TRL computes its loss from that."""

        def see(
            input_ids: Tensor | None = None,
            pixel_values: Tensor | None = None,
            image_features: Tensor | None = None,
            num_images: Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            given = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
            with self._seeing(given, pixel_values, image_features, num_images):
                return self.language_model.base_model(input_ids, **kwargs)

        return see

    def get_input_embeddings(self) -> nn.Module:
        """Of the language model."""
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Of the language model."""
        return self.language_model.get_output_embeddings()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Of the language model; PEFT asks for it."""
        return self.language_model.prepare_inputs_for_generation(*args, **kwargs)

    @property
    def generation_config(self) -> GenerationConfig:
        """Of the language model."""
        return self.language_model.generation_config

    @generation_config.setter
    def generation_config(self, value: GenerationConfig) -> None:
        if "language_model" in self._modules:
            self.language_model.generation_config = value


def _see_again() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Contexts of a checkpointed forward pass, and of its repetition in the backward pass, wherever that runs."""
    return nullcontext(), seeing(seen())


def _load_text(name: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    load = cast(Callable[..., PreTrainedModel], AutoModelForCausalLM.from_pretrained)
    try:
        return load(name, **kwargs)
    except (OSError, ValueError) as error:
        raise ExcitorError(
            f"the language model {name} is neither a folder with a causal language model nor one within reach on the "
            f"hub ({str(error).splitlines()[0]})"
        ) from error


AutoModelForImageTextToText.register(ExcitorVisionConfig, ExcitorForConditionalGeneration)
