"""What a transformer can be asked for: options that go together, and conditions that it was built for."""

from torch import Tensor, nn

from v4s_lib.model.outputs import ContextCache
from v4s_lib.model.sight import CELLS


def check_option(name: str, value: str | int | None, allowed: tuple) -> None:
    """Raise ``ValueError`` for an option that is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}: choose one of them")


def check_conditions(
    model: nn.Module,
    context_cache: ContextCache | None,
    text: Tensor | None,
    words: Tensor | None,
    camera_path: Tensor | None,
) -> None:
    """Raise ``ValueError`` for a condition that a model has no part for."""
    if context_cache is not None and not model.keeps_context:
        raise ValueError("expected no context_cache for a two_way model, got one: pass context_latents")
    if text is not None and model.config.text_dim is None:
        raise ValueError("expected no encoder_hidden_states for a model without text, got some: set text_dim")
    if words is not None and model.word_embedding is None:
        raise ValueError("expected no words for a model without a vocabulary, got some: set vocabulary")
    if camera_path is not None and model.pose_adapter is None:
        raise ValueError("expected no camera_path for a model without poses, got one: set pose_encoding")


def check_parts(config) -> None:
    """Raise ``ValueError`` for options of the transformer that do not go together."""
    after = config.localize_after
    if after is not None and config.position_size is None:
        raise ValueError("expected a position_size for a localizer, got None: give one or leave localize_after None")
    for part, name in ((config.ray_rotary, "ray_rotary"), (config.see_places, "see_places")):
        if part and after is None:
            raise ValueError(f"expected a localizer for {name}, got localize_after None: set it")
    if config.see_places is not None:
        needed = ((1, 1, 1), 12 * config.see_places**2)
        got = (tuple(config.patch_size), config.in_channels)
        if needed != got:
            raise ValueError(
                f"expected patch_size and in_channels {needed} for see_places {config.see_places}, got {got}: "
                "it looks at the patches of the codec"
            )
    if config.paint and (config.see_places is None or config.prediction_type != "sample"):
        raise ValueError(
            "expected see_places and prediction_type sample for paint, got "
            f"{config.see_places} and {config.prediction_type}: set both or leave paint False"
        )
    if config.find_words is not None and (after is None or config.vocabulary is None):
        raise ValueError(
            "expected a localizer and a vocabulary for a finder, got "
            f"localize_after {after} and {'no' if config.vocabulary is None else 'a'} vocabulary: set both"
        )
    for patch in (config.see_places, config.find_words):
        if patch is not None and (config.cell not in CELLS or patch % config.cell):
            raise ValueError(
                f"expected a cell of {', '.join(map(str, CELLS))} pixels, of which patches of {patch} hold whole ones, "
                f"got {config.cell}: choose another"
            )
    check_options(config)


def check_options(config) -> None:
    """Raise ``ValueError`` for options of claims C1 to C5 that do not go together with the model."""
    for name in ("context_compression", "spatial_only_context", "context_blocks"):
        if getattr(config, name) and config.context_attention != "one_way":
            raise ValueError(
                f"expected one_way context_attention for {name}, got {config.context_attention}: in a joint sequence "
                "the context is no stream of its own"
            )
    for name in ("pose_blocks", "context_blocks"):
        wrong = [block for block in getattr(config, name) or [] if block not in range(config.num_layers)]
        if wrong:
            raise ValueError(f"expected {name} in 0..{config.num_layers - 1}, got {wrong[0]}: number the blocks from 0")
    if config.task_adapters is not None and config.vocabulary is None:
        raise ValueError("expected a vocabulary for task_adapters, got none: an instruction's words choose the adapter")
