"""What a transformer can be asked for: options that go together, and conditions that it was built for."""

from torch import Tensor, nn


def check_option(name: str, value: str | int | None, allowed: tuple) -> None:
    """Raise ``ValueError`` for an option that is none of those allowed."""
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}: choose one of them")


def check_conditions(
    model: nn.Module,
    context_cache: list | None,
    text: Tensor | None,
    words: Tensor | None,
    camera_path: Tensor | None,
) -> None:
    """Raise ``ValueError`` for a condition that a model has no part for."""
    if context_cache is not None and model.config.context_attention != "one_way":
        raise ValueError("expected no context_cache for a two_way model, got one: pass context_latents")
    if text is not None and model.config.text_dim is None:
        raise ValueError("expected no encoder_hidden_states for a model without text, got some: set text_dim")
    if words is not None and model.word_embedding is None:
        raise ValueError("expected no words for a model without a vocabulary, got some: set vocabulary")
    if camera_path is not None and model.pose_adapter is None:
        raise ValueError("expected no camera_path for a model without poses, got one: set pose_encoding")


def check_localizer(
    after: int | None,
    context_attention: str,
    position_size: tuple[int, int] | None,
    ray_rotary: bool,
    find_words: int | None,
    vocabulary: list[str] | None,
) -> None:
    """Raise ``ValueError`` for options of the transformer that do not go together."""
    if after is not None and (context_attention != "one_way" or position_size is None):
        raise ValueError(
            "expected one_way context_attention and a position_size for a localizer, "
            f"got {context_attention} and {position_size}: give both or leave localize_after None"
        )
    if ray_rotary and after is None:
        raise ValueError("expected a localizer for ray_rotary, got localize_after None: set it")
    if find_words is not None and (after is None or vocabulary is None):
        raise ValueError(
            "expected a localizer and a vocabulary for a finder, got "
            f"localize_after {after} and {'no' if vocabulary is None else 'a'} vocabulary: set both"
        )
